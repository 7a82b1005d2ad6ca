"""The text that is on every machine: Python's own documentation."""

import re


def python_documentation() -> list[str]:
    """Return the topics of the English documentation inside of CPython, without repetitions.

    Raises:
        ValueError: This Python has none.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            "`path` must be given, got None: this Python lacks the module `pydoc_data.topics` of "
            "the built-in text; pass a text file, or install the full standard library."
        ) from error
    seen: set[str] = set()
    documents = []
    for name in sorted(topics):
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            # Topics quote each other with other indentation and line breaks.
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            documents.append("\n\n".join(paragraphs) + "\n\n")
    return documents
