"""Public benchmarks as declarations, and one way to ask them: load, prompt, answer, extract, score, average."""

from stts_lightning.benchmark.averages import Averages, image_averages, video_averages
from stts_lightning.benchmark.declare import Benchmark, load_benchmark
from stts_lightning.benchmark.items import ImageRef, Item, Subtitle
from stts_lightning.benchmark.load import Loaded, load_items
from stts_lightning.benchmark.run import describe, run_benchmark, save_result
from stts_lightning.benchmark.score import BenchmarkResult, Prediction

__all__ = [
    "Averages",
    "Benchmark",
    "BenchmarkResult",
    "ImageRef",
    "Item",
    "Loaded",
    "Prediction",
    "Subtitle",
    "describe",
    "image_averages",
    "load_benchmark",
    "load_items",
    "run_benchmark",
    "save_result",
    "video_averages",
]
