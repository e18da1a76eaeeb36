"""The thirteen video benchmarks."""

from __future__ import annotations

from typing import Any

from layout import PICTURE, Layout, videos

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
