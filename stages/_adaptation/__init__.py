"""What starting and merging adapters share: probe texts, reports, the checks of both."""

import stages._peft  # noqa: F401 - before PEFT is imported: it keeps bitsandbytes quiet
