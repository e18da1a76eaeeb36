"""The thirteen image benchmarks."""

from __future__ import annotations

from layout import PICTURE, Layout, cell

LAYOUTS: dict[str, Layout] = {}

LAYOUTS["ai2d"] = Layout(
    "ai2d",
    {"data/test-00000-of-00001.parquet": [
        {"question": "What eats grass?", "options": ["hare", "fox"], "answer": "0", "image": cell()}]},
    right=["A. hare"], wrong=["B"],
)  # fmt: skip
LAYOUTS["chart_qa"] = Layout(
    "chart_qa",
    {"data/test-00000-of-00001.parquet": [
        {"type": "human_test", "question": "How much?", "answer": "200", "image": cell()},
        {"type": "augmented_test", "question": "Which?", "answer": "Norway", "image": cell()}]},
    right=["209", "norway"], wrong=["211", "Sweden"],
)  # fmt: skip
for _name, _dir in (("doc_qa", "DocVQA"), ("info_qa", "InfographicVQA")):
    LAYOUTS[_name] = Layout(
        _name,
        {f"{_dir}/validation-00000-of-00001.parquet": [
            {"questionId": "337", "question": "Which date?", "image": cell(), "answers": ["1/8/93", "January 8"]}]},
        right=["1/8/93"], wrong=["never"],
    )  # fmt: skip
LAYOUTS["text_vqa"] = Layout(
    "text_vqa",
    {"data/validation-00000-of-00003.parquet": [
        {"image_id": "a", "question_id": 34602, "question": "Which brand?", "image": cell(),
         "answers": ["nokia"] * 7 + ["phone"] * 3}]},
    right=["Nokia"], wrong=["toshiba"],
)  # fmt: skip
LAYOUTS["vqa2"] = Layout(
    "vqa2",
    {"data/validation-00000-of-00068.parquet": [
        {"question_id": 5, "image_id": 1, "question": "Is it night?", "answer_type": "yes/no", "question_type": "is it",
         "multiple_choice_answer": "yes", "image": cell(),
         "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]}]},
    right=["Yes."], wrong=["no"],
)  # fmt: skip
_rwqa = (
    "In which direction?\n\nA. Left\nB. Right\n"
    "Please answer directly with only the letter of the correct option and nothing else."
)
LAYOUTS["real_world_qa"] = Layout(
    "real_world_qa",
    {"data/test-00000-of-00002.parquet": [
        {"question": _rwqa, "answer": "B", "image": cell()},
        {"question": "How many lanes?\nPlease answer directly with a single word or number.", "answer": "2",
         "image": cell()}]},
    right=["B", "2."], wrong=["A", "3"],
)  # fmt: skip
LAYOUTS["mmmu"] = Layout(
    "mmmu",
    {
        "Art/validation-00000-of-00001.parquet": [
            {"id": "validation_Art_1", "question": "<image 1> Who?", "options": "['Miro', \"D'Or\", 'Klee']",
             "answer": "B", "question_type": "multiple-choice", "image_1": cell(), "image_2": None}],
        "Math/validation-00000-of-00001.parquet": [
            {"id": "validation_Math_2", "question": "How long?", "options": "[]", "answer": "['3.5', 'seven halves']",
             "question_type": "open", "image_1": cell(), "image_2": None}],
    },
    right=["(B) D'Or", "It is 3.50 m"], wrong=["A", "35"],
)  # fmt: skip
LAYOUTS["math_vista"] = Layout(
    "math_vista",
    {"data/testmini-00000-of-00001.parquet": [
        {"pid": "1", "question": "Which is longer?", "choices": ["AB", "CD"], "answer": "CD", "precision": None,
         "question_type": "multi_choice", "answer_type": "text", "decoded_image": cell(), "image": "images/1.jpg"},
        {"pid": "2", "question": "How far?", "choices": None, "answer": "1.2", "precision": 1.0,
         "question_type": "free_form", "answer_type": "float", "decoded_image": cell(), "image": "images/2.jpg"}]},
    right=["B", "about 1.23"], wrong=["A", "1.3"],
)  # fmt: skip
LAYOUTS["count_bench"] = Layout(
    "count_bench",
    {"data/test-00000-of-00001.parquet": [
        {"image": cell(), "text": "three dogs", "question": "How many dogs are there?", "number": 3}]},
    right=['<points x1="1" y1="2">dogs</points> a total of 3'], wrong=["two"],
)  # fmt: skip
LAYOUTS["pixmo_count"] = Layout(
    "pixmo_count",
    {"data/test-00000-of-00001.parquet": [
        {"image_url": "http://example.org/1.jpg", "image_sha256": "ab12", "count": 4, "label": "people",
         "points": {"x": [1.0], "y": [2.0]}}],
     "images/ab12": PICTURE},
    right=["four"], wrong=["5"],
)  # fmt: skip
LAYOUTS["muir_bench"] = Layout(
    "muir_bench",
    {"data/test-00000-of-00001.parquet": [
        {"idx": "2", "task": "Ordering", "question": "<image><image> Which is first?", "options": ["<image>", "second"],
         "answer": "A", "image_relation": "r", "image_type": "t", "image_list": [cell(1), cell(2), cell(3)],
         "counterpart_idx": "3"}]},
    right=["A"], wrong=["B"],
)  # fmt: skip
_mmiu = {"task": "forensic", "visual_input_component": "natural", "source": "x", "context": "not shown",
         "input_image_path": ["./Low-level-semantic/f/0.png", "./Low-level-semantic/f/1.png"]}  # fmt: skip
LAYOUTS["mmiu"] = Layout(
    "mmiu",
    {
        "data/test-00000-of-00001.parquet": [
            {**_mmiu, "question": "Which is fake?", "options": "A: the first\nB: the second", "output": "B"},
            {**_mmiu, "question": "Which is odd?", "options": "A: the first\nB: the second", "output": "B"},
        ],
        "Low-level-semantic/f/0.png": PICTURE,
        "Low-level-semantic/f/1.png": PICTURE,
    },
    right=["B", "B: the second"],
    wrong=["A", "A"],
)
