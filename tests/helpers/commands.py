"""What tests say of a command's output."""


def assert_one_line(text: str, *words: str) -> None:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    assert all(word in text for word in words), text
