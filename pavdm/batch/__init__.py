"""Many prompts on many processes: lists, claims, the ranks' loop, what is shown of it, and cutting clips."""
