"""What to try: one sampler a file."""
