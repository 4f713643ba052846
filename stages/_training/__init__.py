"""What happens inside the train stage: how processes are started, what each does, how it resumes."""
