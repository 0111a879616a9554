"""From prompts to answers: visual tokens, one KV cache for many prompts, generation."""
