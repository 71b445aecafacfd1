import pytest

from .double import ByteTokenizer


@pytest.fixture
def tokenizer():
    return ByteTokenizer(
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
