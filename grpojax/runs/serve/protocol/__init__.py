"""OpenAI's protocol: bodies of requests and responses, as JSON values."""
