"""The name under which a model artifact is served."""


def served_model_name(fingerprint: str) -> str:
    """Unique for the weights behind it, so that a server of another model can never answer in its place."""
    return f"model-{fingerprint[:24]}"
