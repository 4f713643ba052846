"""From a recipe to steps: its sections, the steps of training, the steps of evaluation."""
