"""Tables: encoding by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_wine

from kdcore.tasks import load_task
from kdcore.tasks.table import read_table


def people(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "age": rng.integers(18, 80, n),
            "height": rng.normal(170, 9, n),
            "constant": 3.0,
            "city": rng.choice(["Oslo", "Rome"], n),
            "member": rng.choice([True, False], n),
            "answer": np.where(np.arange(n) % 4 == 0, "no", "yes"),
        }
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".csv.gz"])
def test_every_format_gives_the_same_task(tmp_path: Path, suffix: str) -> None:
    frame, path = people(), tmp_path / f"people{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    task = load_task("table", path=path, target="answer", drop=["id"])
    direct = load_task("table", path=frame, target="answer", drop=["id"])
    assert task.class_names == ("no", "yes") and task.input_shape == (7,)
    torch.testing.assert_close(task.train.x, direct.train.x)
    assert torch.equal(task.train.y, direct.train.y)


def test_encoding_uses_training_statistics_only() -> None:
    frame = people()
    task = load_task("table", path=frame, target="answer", columns=["age", "city", "constant", "member"], seed=2)
    assert task.notes == ("input columns: age, constant, city_Oslo, city_Rome, member_False, member_True",)
    x = task.train.x
    torch.testing.assert_close(x[:, 0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(x[:, 0].std(correction=0), torch.tensor(1.0))
    assert not x[:, 1].any()
    assert torch.equal(x[:, 2] + x[:, 3], torch.ones(len(x))) and torch.equal(x[:, 4] + x[:, 5], torch.ones(len(x)))
    # by hand: ages come back from both splits with the mean and deviation of the training rows alone
    ages = np.sort(frame.age)
    scale = np.polyfit(np.sort(torch.cat([x, task.test.x])[:, 0].numpy()), ages, 1)
    train_ages = x[:, 0].numpy() * scale[0] + scale[1]
    assert train_ages.mean() == pytest.approx(scale[1], abs=1e-3)
    assert train_ages.std() == pytest.approx(scale[0], abs=1e-3)
    assert task.test.x[:, 0].mean().abs() > 1e-4


def test_category_unknown_to_the_training_rows_is_all_zero() -> None:
    frame = people()
    split = load_task("table", path=frame.assign(row=range(40)), target="answer", columns=["row"], seed=0)
    rows = torch.cat([split.train.x, split.test.x])[:, 0].argsort().argsort()
    test_row = int(rows[len(split.train)])
    frame.loc[test_row, "city"] = "Atlantis"
    task = load_task("table", path=frame, target="answer", columns=["city"], seed=0)
    assert "Atlantis" not in task.notes[0] and (task.test.x.sum(1) == 0).sum() == 1 and (task.train.x.sum(1) == 1).all()


def test_missing_values_are_refused_or_filled_as_documented() -> None:
    frame = people()
    frame.loc[[1, 2], "height"] = np.nan
    frame.loc[[3], "city"] = None
    with pytest.raises(ValueError, match=r"in 'height' \(2 of 40\), 'city' \(1 of 40\).*missing='impute'"):
        load_task("table", path=frame, target="answer", drop=["id"])
    task = load_task("table", path=frame, target="answer", columns=["height", "city"], missing="impute", seed=5)
    everything = torch.cat([task.train.x, task.test.x])
    assert torch.isfinite(everything).all()
    filled = everything[:, 0].unique(return_counts=True)
    assert filled[1].max() >= 2  # both holes hold the training median


def test_numbers_may_be_categories_and_targets_numbers() -> None:
    frame = people().assign(floor=lambda f: f.age % 3, label=[0.0, 2.0] * 20)
    task = load_task("table", path=frame, target="label", columns=["floor"], categorical=["floor"])
    assert task.input_shape == (3,) and task.class_names == ("0", "2") and set(task.labels("test").tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"target": "anser"}, r"target names column 'anser'.* Did you mean 'answer'.*Its columns: id, age"),
        ({}, {"columns": ["age", "weight"]}, "columns names column 'weight'"),
        ({}, {"drop": ["nothing"]}, "drop names column 'nothing'"),
        ({}, {"categorical": ["nothing"]}, "categorical names column 'nothing'"),
        ({}, {"columns": ["city"], "categorical": []}, "columns city are not numbers"),
        ({}, {"columns": ["answer"]}, "nothing is left to learn from"),
        ({}, {"missing": "ignore"}, "missing must be one of"),
        ({}, {"target": "height"}, "holds fractions such as"),
        ({}, {"target": "constant"}, "must have 2 to 200 classes, got 1"),
        ({"age": np.inf}, {}, r"infinite values in 'age' \(40\)"),
        ({"age": np.nan}, {"missing": "impute"}, "columns without any value: age"),
        ({"answer": ["no"] + ["yes"] * 39}, {}, r"at least 2 samples to be split; 'no' has 1"),
        ({"answer": [None] * 3 + ["yes", "no"] * 18 + ["no"]}, {}, "target column 'answer' has 3 missing values of 40"),
    ],
)
def test_bad_tables_are_refused(change: dict[str, object], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task("table", **({"path": people().assign(**change), "target": "answer", "drop": ["id"]} | options))


def test_identifiers_are_not_categories() -> None:
    with pytest.raises(ValueError, match="more than 200 categories in id"):
        load_task("table", path=people(400), target="answer")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no table at"):
        load_task("table", path=tmp_path / "none.csv", target="a")
    for name, content in (
        ("a.xlsx", b"x"),
        ("empty.csv", b""),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n"),
        ("no.parquet", b"PAR"),
        ("undefined.csv", b"a,b\n\x81\x8d,1\n"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"must be \.csv|cannot be read as"):
            read_table(tmp_path / name)


def test_a_teacher_learns_a_real_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    wine = load_wine(as_frame=True)
    task = load_task("table", path=wine.frame, target="target")
    assert task.class_names == ("0", "1", "2") and list(task.teachers) == ["mlp"]
    assert task.accuracy(task.teacher()) > 0.9  # standardised wine is nearly separable; guessing gives 0.4


# Files as programs write them -----------------------------------------------------------------------------------------


def numbers(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {"length": rng.normal(5, 1, n), "width": rng.normal(2, 1, n), "art": np.tile(["a", "ö"], n // 2)}
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
def test_separators_are_found_and_told(tmp_path: Path, separator: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    numbers().to_csv(path, sep=separator, index=False)
    read = read_table(path)
    pd.testing.assert_frame_equal(read, numbers())
    usual = separator == ("\t" if suffix == ".tsv" else ",")
    assert (read.attrs["said"] == []) == usual


def test_decimal_commas_are_read_and_told(tmp_path: Path) -> None:
    numbers().to_csv(tmp_path / "a.csv", sep=";", decimal=",", index=False)
    with pytest.warns(UserWarning) as told:
        task = load_task("table", path=tmp_path / "a.csv", target="art")
    assert task.input_shape == (2,) and task.class_names == ("a", "ö")
    torch.testing.assert_close(task.train.x, load_task("table", path=numbers(), target="art").train.x)
    said = " ".join(str(w.message) for w in told)
    assert "separated by semicolons" in said and "decimal comma: length, width" in said
    assert task.notes[1:] == (
        "Its columns are separated by semicolons.",
        "Numbers with a decimal comma: length, width.",
    )


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-8", False), ("utf-8-sig", False), ("utf-16", False), ("cp1252", True)]
)
def test_encodings_are_found(tmp_path: Path, encoding: str, told: bool) -> None:
    numbers().to_csv(tmp_path / "a.csv", index=False, encoding=encoding)
    read = read_table(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(read, numbers())
    assert bool(read.attrs["said"]) == (encoding == "cp1252")


def write_lines(path: Path, header: str, row: str, n: int = 60) -> Path:
    path.write_text(header + "\n" + "".join(row.format(i=i, c=i % 2, d=i % 3) + "\n" for i in range(n)))
    return path


def test_rows_that_end_in_a_separator_move_no_column(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.csv", "label,code,big", "{c},{d},1{i:03d},")
    read = read_table(path)
    assert list(read.columns) == ["label", "code", "big"] and read.label.tolist() == [0, 1] * 30
    assert read.big.tolist() == list(range(1000, 1060)) and "ends with a separator" in read.attrs["said"][0]


@pytest.mark.parametrize("row", ["r{i},{c},{d},1{i:03d}", "r{i},{c},{d},1{i:03d},x", "{c},{d},1{i:03d},,"])
def test_rows_longer_than_their_header_are_refused(tmp_path: Path, row: str) -> None:
    path = write_lines(tmp_path / "a.csv", "label,code,big", row)
    with pytest.raises(ValueError, match=r"rows have \d fields but the header has 3 names \(label, code, big"):
        read_table(path)


def test_nameless_row_numbers_are_left_out_and_named_ones_told(tmp_path: Path) -> None:
    numbers().sample(frac=1, random_state=0).to_csv(tmp_path / "a.csv")
    with pytest.warns(UserWarning, match=r"Column 'Unnamed: 0' numbers the rows and is left out"):
        assert load_task("table", path=tmp_path / "a.csv", target="art").input_shape == (2,)
    named = numbers().assign(subject=np.arange(1, 61))
    with pytest.warns(UserWarning, match=r"Column 'subject' numbers the rows: if it is no property of them"):
        assert load_task("table", path=named, target="art").input_shape == (3,)
    for options in ({"drop": ["subject"]}, {"columns": ["length", "subject"]}):
        assert load_task("table", path=named, target="art", **options).input_shape == (2,)


def test_numbers_with_a_few_words_are_refused_and_codes_are_not() -> None:
    frame = numbers().assign(age=[*map(str, range(20, 78)), "?", "n/a"])
    with pytest.raises(ValueError, match=r"column 'age' holds numbers but for '\?', 'n/a': clean it"):
        load_task("table", path=frame, target="art")
    assert load_task("table", path=frame, target="art", categorical=["age"]).input_shape[0] > 20
    codes = numbers().assign(zone=["1", "2", "B"] * 20)
    assert load_task("table", path=codes, target="art").input_shape == (5,)


def test_columns_of_one_name_and_mixed_targets_are_refused() -> None:
    twice = pd.concat([numbers(), numbers()[["width"]]], axis=1)
    with pytest.raises(ValueError, match="several columns are called width"):
        load_task("table", path=twice, target="art")
    mixed = numbers().assign(art=[1, 2] * 15 + ["2", "x"] * 15)
    with pytest.raises(ValueError, match=r"'art' holds numbers and text, e.g. '2' in 30 of 60 rows"):
        load_task("table", path=mixed, target="art")
