"""Model weights as files: sharded safetensors in the hub's layout, read and written without building a model."""
