"""Long-text policies, tokenizing, batches."""
