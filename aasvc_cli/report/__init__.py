"""Pictures of what the model does."""
