import pytest

from ..double import ByteTokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return ByteTokenizer()
