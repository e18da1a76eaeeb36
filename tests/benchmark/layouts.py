"""What each benchmark's files look like, as their authors publish them, with a few questions of our own.

``files`` maps a path to its content: a list of rows (parquet, csv, jsonl), any object (json), VIDEO, or a PICTURE.
``right`` and ``wrong`` are answers of a model, in the order of the questions that stay.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VIDEO, PICTURE = object(), object()
FRAMES, FPS = 16, 4  # 4 seconds


@dataclass
class Layout:
    folder: str
    files: dict[str, Any]
    right: list[str]
    wrong: list[str]
    dropped: dict[str, int] = field(default_factory=dict)


def clip(path: Path) -> bytes:
    from stts_lightning.video.write import write_h264

    rng = np.random.default_rng(0)
    write_h264(path, (rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(FRAMES)), FPS)
    return path.read_bytes()


def picture(shade: int = 90) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), (shade, 40, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def cell(shade: int = 90) -> dict[str, Any]:
    """A picture as the hub's parquet files hold it."""
    return {"bytes": picture(shade), "path": None}


def write(layout: Layout, root: Path, video: bytes) -> None:
    for name, content in layout.files.items():
        path = root / layout.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is VIDEO:
            path.write_bytes(video)
        elif content is PICTURE:
            path.write_bytes(picture(len(name)))
        elif path.suffix == ".parquet":
            _parquet(path, content)
        elif path.suffix == ".csv":
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, fieldnames=list(content[0]))
                table.writeheader()
                table.writerows(content)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_text(json.dumps(content))


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def videos(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, VIDEO)


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"question": text, **more}


LAYOUTS: dict[str, Layout] = {}

_next = [
    {"video": 4010069381, "frame_count": 16, "width": 32, "height": 32, "question": "why did the boy clap", "answer": 4,
     "qid": 7, "type": "CW", "a0": "to dance", "a1": "cold", "a2": "to wave", "a3": "angry", "a4": "happy"},
    {"video": 4010069381, "frame_count": 16, "width": 32, "height": 32, "question": "where is the dog", "answer": 0,
     "qid": 8, "type": "DL", "a0": "garden", "a1": "room", "a2": "car", "a3": "boat", "a4": "street"},
]  # fmt: skip
LAYOUTS["next_qa"] = Layout(
    "next_qa",
    {"MC/test-00000-of-00001.parquet": _next, **videos("NExTVideo/4010069381.mp4")},
    right=["E", "A"],
    wrong=["B", "(C)"],
)
LAYOUTS["perception_test"] = Layout(
    "perception_test",
    {
        "mc_question_val/validation-00000-of-00001.parquet": [
            {"video_name": "video_1", "question": "What moves?", "question_id": "0", "options": ["cup", "pen", "hand"],
             "answer_id": "2", "area": "physics", "reasoning": "descriptive", "tag": ["motion"]},
        ],
        **videos("videos/video_1.mp4"),
    },
    right=["C"],
    wrong=["none"],
)  # fmt: skip

MVBENCH_VIDEOS = {
    "action_sequence": "video/star/Charades_v1_480/action_sequence.mp4",
    "action_prediction": "video/data0613/star/Charades_v1_480/action_prediction.mp4",
    "action_antonym": "video/ssv2_video/action_antonym.mp4",
    "fine_grained_action": "video/Moments_in_Time_Raw/videos/fine_grained_action.mp4",
    "unexpected_action": "video/FunQA_test/test/unexpected_action.mp4",
    "object_existence": "video/data0613/clevrer/video_validation/object_existence.mp4",
    "object_interaction": "video/star/Charades_v1_480/object_interaction.mp4",
    "object_shuffle": "video/perception/videos/object_shuffle.mp4",
    "moving_direction": "video/clevrer/video_validation/moving_direction.mp4",
    "action_localization": "video/sta/sta_video/action_localization.mp4",
    "scene_transition": "video/scene_qa/video/scene_transition.mp4",
    "action_count": "video/perception/videos/action_count.mp4",
    "moving_count": "video/clevrer/video_validation/moving_count.mp4",
    "moving_attribute": "video/clevrer/video_validation/moving_attribute.mp4",
    "state_change": "video/perception/videos/state_change.mp4",
    "fine_grained_pose": "video/nturgbd_convert/fine_grained_pose.mp4",
    "character_order": "video/perception/videos/character_order.mp4",
    "egocentric_navigation": "video/vlnqa/egocentric_navigation.mp4",
    "counterfactual_inference": "video/clevrer/video_validation/counterfactual_inference.mp4",
}
MVBENCH_TASKS = [*list(MVBENCH_VIDEOS)[:18], "episodic_reasoning", "counterfactual_inference"]
CLIPPED = {"action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning"}


def _mvbench_row(task: str) -> dict[str, Any]:
    name = {"fine_grained_pose": f"{task}.avi", "episodic_reasoning": "show_s01"}.get(task, f"{task}.mp4")
    row = {"video": name, "question": f"What of {task}?", "candidates": ["this", "that", "neither"], "answer": "that"}
    return row | ({"start": 1.0, "end": 2.5} if task in CLIPPED else {})


LAYOUTS["mvbench"] = Layout(
    "mvbench",
    {
        **{f"json/{task}.json": [_mvbench_row(task)] for task in MVBENCH_TASKS},
        **videos(*MVBENCH_VIDEOS.values()),
        **{f"video/tvqa/frames_fps3_hq/show_s01/{i:05d}.jpg": PICTURE for i in range(1, 10)},
    },
    right=["b."] * 20,
    wrong=["A", *["c. neither"] * 19],
)
_tomato = {"answer": 1, "demonstration_type": "human", "variation": {"reversed": 0}, "motion_type": "hand", "note": ""}
LAYOUTS["tomato"] = Layout(
    "tomato",
    {
        "data/count.json": {
            "0": {"question": "How often?", "options": ["1", "2", "3"], "key": "0190-00", **_tomato},
        },
        "data/direction.json": {
            "0": {"question": "Whither?", "options": ["left", "right"], "key": "0390-01", **_tomato,
                  "demonstration_type": "object", "answer": 0},
        },
        **videos("videos/human/0190-00.mp4", "videos/object/0390-01.mp4"),
    },
    right=["B. 2", "a"],
    wrong=["C", ""],
)  # fmt: skip
LAYOUTS["motion_bench"] = Layout(
    "motion_bench",
    {
        "MotionBench/video_info.meta.jsonl": [
            {"key": "k1", "video_path": "one.mp4", "question_type": "Motion Recognition", "video_type": "public",
             "video_info": {"duration": 4.0},
             "qa": [{"uid": "u1", "question": "What is done?\nA. run\nB. jump\nC. sit", "answer": "B"},
                    {"uid": "u2", "question": "Hidden?\nA. run\nB. jump", "answer": "NA"}]},
            {"key": "k2", "video_path": "two.mp4", "question_type": "Camera", "video_type": "own", "video_info": 0,
             "qa": [{"uid": "u3", "question": "How?\nA. left\nB. right\nC. up\nD. down\nE. in\nF. out", "answer": "F",
                     "start": 1}]},
        ],
        **videos("MotionBench/public-dataset/one.mp4", "MotionBench/self-collected/two.mp4"),
    },
    right=["B", "f. out"],
    wrong=["jump", "A"],
    dropped={"answer NA": 1},
)  # fmt: skip
_captions = "Which one fits?\nCaption A: It grows: fast.\nCaption B: It shrinks."
_options = "Which description?\nOption 1: a man runs\nOption 2: a man sits"
LAYOUTS["temp_compass"] = Layout(
    "temp_compass",
    {
        "multi-choice/test-00000-of-00001.parquet": [
            {"video_id": "1", "question": "What moves?\nA. a cat\nB. a dog", "answer": "B. a dog", "dim": "action"}
        ],
        "yes_no/test-00000-of-00001.parquet": [
            {"video_id": "1", "question": "Does it move?", "answer": "yes", "dim": "speed"},
            {"video_id": "2", "question": "Does it turn?", "answer": "no", "dim": "direction"},
        ],
        "caption_matching/test-00000-of-00001.parquet": [
            {"video_id": "2", "question": _captions, "answer": "Caption A: It grows: fast.", "dim": "attribute_change"},
            {"video_id": "2", "question": _options, "answer": "Option 2: a man sits", "dim": "action"},
            {"video_id": "2", "question": _options, "answer": "Option 3: a man swims", "dim": "action"},
        ],
        **videos("videos/1.mp4", "videos/2.mp4"),
    },
    right=["B", "Yes, it does.", "no", "A. It grows: fast.", "a man sits"],
    wrong=["a dog or a cat", "maybe", "Yes", "B", "Option"],
    dropped={"answer is none of the options": 1},
)
_mme = [
    {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Biology", "videoID": "fFj",
     "question_id": "001-1", "task_type": "Counting", "question": "How many?", "answer": "C",
     "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. All the same."]},
    {"video_id": "002", "duration": "long", "domain": "Sports", "sub_category": "Ball", "videoID": "N1c",
     "question_id": "002-1", "task_type": "Action", "question": "Who?", "answer": "A",
     "options": ["A. He.", "B. She.", "C. They.", "D. None."]},
]  # fmt: skip
_mme_files = {"videomme/test-00000-of-00001.parquet": _mme, **videos("data/fFj.mp4", "data/N1c.mp4")}
_mme_sub = {
    "fFj": {
        "0": {"start": 0.2, "end": 0.9, "text": "Look at the berries."},
        "1": {"start": 3.0, "end": 4.0, "text": "They are ripe."},
    }
}
LAYOUTS["video_mme"] = Layout("video_mme", _mme_files, right=["C", "The best answer is A."], wrong=["A", "B"])
LAYOUTS["video_mme_sub"] = Layout(
    "video_mme", {**_mme_files, "subtitles.json": _mme_sub}, right=["C. Berries.", "A"], wrong=["D", "C"]
)
_lvb = [
    {"id": "v1_0", "video_id": "v1", "video_path": "v1.mp4", "subtitle_path": "v1_en.json", "duration": 4.0,
     "question": "What is shown?", "candidates": ["a map", "a car", "a door", "a key", "a cup"], "correct_choice": 3,
     "question_category": "S2E", "duration_group": 15, "level": "L1", "starting_timestamp_for_subtitles": 100.0},
    {"id": "v2_0", "video_id": "v2", "video_path": "v2.mp4", "subtitle_path": "v2_en.json", "duration": 4.0,
     "question": "When the subtitle says 'hello', who waves?", "candidates": ["she", "he"], "correct_choice": 1,
     "question_category": "T2E", "duration_group": 15, "level": "L1", "starting_timestamp_for_subtitles": 0},
]  # fmt: skip
_lvb_files = {
    "lvb_val.json": _lvb,
    "subtitles/v1_en.json": [
        {"timestamp": [90.0, 99.0], "text": "before the clip"},
        {"timestamp": [99.0, 101.0], "text": "across its start"},
        {"timestamp": [103.0, None], "text": "to its end"},
    ],
    "subtitles/v2_en.json": [{"start": "00:00:01.000", "end": "00:00:02.500", "line": "hello"}],
    **videos("videos/v1.mp4", "videos/v2.mp4"),
}
LAYOUTS["long_video"] = Layout(
    "long_video", _lvb_files, right=["The answer is D"], wrong=["A"], dropped={"prompt with 'subtitle'": 1}
)
LAYOUTS["long_video_sub"] = Layout("long_video", _lvb_files, right=["D", "B. he"], wrong=["E", "A"])
_mlvu = {
    "1_plotQA": ("Who?", "Tom"), "2_needle": ("What?", "Ann"), "3_ego": ("Where?", "Tom"), "4_count": ("Many?", "Ann"),
    "5_order": ("First?", "Tom"), "6_anomaly_reco": ("Odd?", "Ann"), "7_topic_reasoning": ("Topic?", "Tom"),
}  # fmt: skip
LAYOUTS["mlvu"] = Layout(
    "mlvu",
    {
        **{
            f"json/{task}.json": [
                {"video": "m.mp4", "duration": 480.5, "question": text, "candidates": ["Ann", "Tom"], "answer": right,
                 "question_type": task.split("_", 1)[1]}
            ]
            for task, (text, right) in _mlvu.items()
        },
        "json/9_summary.json": [{"video": "m.mp4", "question": "Sum up.", "answer": "..", "question_type": "summary"}],
        **videos(*(f"video/{task}/m.mp4" for task in _mlvu)),
    },
    right=["B", "A", "b", "a", "B.", "A. Ann", "B"],
    wrong=["A", "B", "a", "b", "A.", "Tom", ""],
)  # fmt: skip
LAYOUTS["lvbench"] = Layout(
    "lvbench",
    {
        "video_info.meta.jsonl": [
            {"key": "Cm73ma6Ibcs", "type": "sport", "qa": [
                {"uid": "1", "question": "Which year?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633", "answer": "D",
                 "question_type": ["key information retrieval"], "time_reference": "00:15-00:19"},
                {"uid": "2", "question": "Who won?\n(A) red\n(B) blue\n(C) white\n(D) none", "answer": "A",
                 "question_type": ["event understanding", "reasoning"], "time_reference": "01:00-02:00"}]},
        ],
        **videos("Cm73ma6Ibcs.mp4"),
    },
    right=["D", "a"],
    wrong=["(D)", "B"],
)  # fmt: skip
LAYOUTS["video_eval_pro"] = Layout(
    "video_eval_pro",
    {
        "data/test-00000-of-00001.parquet": [
            {"video": "x.mp4", "question": "What colour?", "options": ["A. red", "B. green", "C. blue"], "answer": "B",
             "answer_text": "green", "meta": "{}", "source": "s", "qa_subtype": "Color", "qa_type": "Local Perception"}
        ],
        **videos("videos_filtered/x.mp4"),
    },
    right=["B"],
    wrong=["C"],
)  # fmt: skip

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
