"""Where a model comes from, and how it becomes a torch.export program."""
