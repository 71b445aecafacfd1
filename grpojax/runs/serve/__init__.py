"""A server of chat and completions over one rollout, in OpenAI's protocol."""
