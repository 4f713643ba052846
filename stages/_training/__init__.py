"""What happens inside the train stage: how processes are started, what each does, how it resumes."""

import stages._peft  # noqa: F401 - before PEFT is imported: it keeps bitsandbytes quiet
