from __future__ import annotations

import pytest

from stts_lightning.benchmark.run import describe, random_choice, run_benchmark


def test_what_cannot_be_read_is_counted_shown_and_treated_as_the_benchmark_does(loaded):
    benchmark, items, _ = loaded("video_mme")
    said = iter(["C", "i cannot tell"])
    result = run_benchmark(benchmark, items, lambda item: next(said))
    assert (result.num_questions, result.num_counted, result.num_unparsed) == (2, 1, 1)
    assert result.accuracy == 1  # of the one that is left
    assert [p.counted for p in result.predictions] == [True, False]
    assert "1 answers unparsable (left out of the accuracy)" in describe(result)

    benchmark, items, _ = loaded("perception_test")
    result = run_benchmark(benchmark, items, lambda item: "?")
    assert (result.accuracy, result.num_counted, result.num_unparsed) == (0, 1, 1)
    assert "counted as wrong" in describe(result) and "split test" in describe(result)


def test_nothing_to_average_is_an_error(loaded):
    benchmark, items, _ = loaded("video_mme")
    with pytest.raises(ValueError, match="video_mme: not one of 2 answers could be read"):
        run_benchmark(benchmark, items, lambda item: "?")


def test_random_choice_is_uniform_over_the_options(loaded):
    from dataclasses import replace

    _, items, _ = loaded("video_mme")
    asked = [replace(items[0], id=f"q{i}") for i in range(2000)]
    said = [random_choice(asked, seed=0)(item) for item in asked]
    share = {letter: said.count(letter) / len(said) for letter in set(said)}
    assert set(share) == set("ABCD") and all(abs(s - 0.25) < 0.04 for s in share.values())
    assert said == [random_choice(asked, seed=0)(item) for item in asked]
    assert said != [random_choice(asked, seed=1)(item) for item in asked]


def test_random_choice_of_a_free_answer_is_one_of_the_benchmarks_own(loaded):
    benchmark, items, _ = loaded("chart_qa")
    result = run_benchmark(benchmark, items, lambda item: "", control="random_choice")
    assert {p.text for p in result.predictions} <= {"200", "Norway"}


def test_yes_or_no_is_guessed_in_words(loaded):
    _, items, _ = loaded("temp_compass")
    asked = [item for item in items if item.kind == "yes_no"]
    assert {random_choice(asked, seed)(asked[0]) for seed in range(20)} == {"yes", "no"}


@pytest.mark.parametrize("control", ["no_eyes", "None"])
def test_an_unknown_control_is_refused(loaded, control):
    benchmark, items, _ = loaded("next_qa")
    with pytest.raises(ValueError, match=f"control='{control}'.*no_vision, random_choice"):
        run_benchmark(benchmark, items, lambda item: "A", control=control)


def test_a_control_that_a_benchmark_does_not_have_is_refused(loaded):
    from dataclasses import replace

    benchmark, items, _ = loaded("next_qa")
    with pytest.raises(ValueError, match="next_qa has no control 'no_vision'"):
        run_benchmark(replace(benchmark, controls=["random_choice"]), items, lambda item: "A", control="no_vision")
