"""Asking a served model: requests, prompts as token ids, an asynchronous client, answers that survive a crash."""
