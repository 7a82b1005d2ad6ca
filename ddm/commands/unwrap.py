"""Errors of jsonargparse in short: it reports every type that it tried."""

from __future__ import annotations

import re

NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value type: "
    r"|Expected a <class 'NoneType'>|Problem with given class_path"
)
LINKED = re.compile(r'Linked "(.+)" must be given via "(.+)"\.')


def unwrap(text: str) -> str:
    """Return the clear text inside of an error: argument, reasons, value.

    What has no such wrapping is returned as it is.
    """
    if match := LINKED.fullmatch(text):
        return f"`{match[1]}` must not be given, it comes from the data; change `{match[2]}`."
    if "Union subtypes" not in text and "Parser key" not in text:
        return text
    keys, reasons, values = [], [], []
    for line in text.splitlines():
        line = line.strip().removeprefix("- ")
        match = re.match(r'Parser key "(.+?)":\s*(.*)', line)
        if match:
            keys.append(match[1])
            line = match[2]
        if line.startswith("Given value: "):
            values.append(line.removeprefix("Given value: "))
        elif line and not NOISE.match(line):
            reasons.append(re.sub(r"<class '([\w.]+)'>", r"\1", line))
    # What a class of ours refuses names its argument itself.
    for index, reason in enumerate(reasons):
        if reason.startswith("`"):
            return "\n".join(dict.fromkeys(reasons[index:]))
    name = ".".join(dict.fromkeys(keys)) or "argument"
    value = values[-1] if values and len(values[-1]) < 80 else "what is given"
    return f"`{name}` cannot be {value}: {'; '.join(dict.fromkeys(reasons))}."
