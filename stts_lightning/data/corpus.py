"""The texts that the tiny model's tokenizer is trained on: the embedded set's own prompts."""

from __future__ import annotations

from stts_lightning.data.prompts import LETTERS, frame_prefix, question_text
from stts_lightning.data.scene import DENSE_CLASSES, EVENT_COLOURS, QUADRANTS, SHAPES, THIRDS


def tokenizer_corpus() -> list[str]:
    """Every question of the embedded set, the header texts, the letters, the times and the dense classes.

    Repeated, so that a whole question is worth a merge.
    """
    texts = []
    for colour in EVENT_COLOURS:
        texts.append(question_text(f"Where does the {colour} shape appear?", list(QUADRANTS)))
        texts.append(question_text(f"When does the {colour} shape appear?", list(THIRDS)))
        texts.append(question_text(f"Which shape does the {colour} thing have?", list(SHAPES)))
        for other in EVENT_COLOURS:
            if other != colour:
                question = f"Does the {colour} shape appear before the {other} one?"
                texts.append(question_text(question, ["yes", "no"]))
    texts += ["user\n", "assistant\n", "\n", *LETTERS, *DENSE_CLASSES]
    texts += [frame_prefix(half / 2, first=half == 0) for half in range(64)]
    return texts * 4
