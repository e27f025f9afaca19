"""Request files: every kind is read to the right numbers, and a bad file gives one clear error."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ridgeline.facts import request_edits as edits
from ridgeline.facts import request_files, request_lines
from ridgeline.facts.request_csv import CsvReader
from ridgeline.facts.request_files import RequestFileError, read_requests
from ridgeline.facts.request_json import JsonReader
from ridgeline.facts.requests import Requests

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared traces are not on this machine")

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.9799600,4808,10
2023-11-17 00:00:00.0319600,3180,8
2023-11-17 00:00:01.0781490,110,27
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
MOONCAKE = (
    '{"timestamp": 100, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 3100, "input_length": 512, "output_length": 7, "hash_ids": [0]}\n'
)
RUN = (
    '{"request_id": "a", "input_toks": 3, "output_toks": 4, "arrival_time": 1777144890.5, "queued_ts": 1.0}\n'
    '{"request_id": "b", "input_toks": 5, "output_toks": 6, "arrival_time": 1777144892.0, "queued_ts": 2.0}\n'
)
OWN = """arrival_s,input_tokens,output_tokens,session,priority,cancel_s
0,10,1,anna,2,
0.5,20,2,,,30
1.5,30,3,anna,1,
"""


def write(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_azure(tmp_path: Path) -> None:
    read = read_requests(write(tmp_path, AZURE.replace("\n", "\r\n")))
    assert read.kind == "azure"
    assert read.notes == ()
    np.testing.assert_allclose(read.requests.arrival_s, [0.0, 0.052, 1.098189], rtol=0, atol=1e-12)
    assert read.requests.input_tokens.tolist() == [4808, 3180, 110]
    assert read.requests.output_tokens.tolist() == [10, 8, 27]


@pytest.mark.parametrize("zone", ["+00:00", "Z", "-01:30"])
def test_azure_with_a_zone(tmp_path: Path, zone: str) -> None:
    text = "\n".join(
        line.replace(",", f"{zone},", 1) if line[:1] == "2" else line for line in AZURE.split("\n")
    )
    read = read_requests(write(tmp_path, text))
    np.testing.assert_allclose(read.requests.arrival_s, [0.0, 0.052, 1.098189], rtol=0, atol=1e-12)


def test_zones_are_taken_off(tmp_path: Path) -> None:
    text = AZURE.replace("9799600,", "9799600Z,").replace(
        "2023-11-17 00:00:00.0319600", "2023-11-17 01:30:00.0319600+01:30"
    )
    read = read_requests(write(tmp_path, text.replace("1.0781490", "1.0781490+00:00")))
    np.testing.assert_allclose(read.requests.arrival_s, [0.0, 0.052, 1.098189], rtol=0, atol=1e-12)


def test_failed_requests_of_burstgpt_are_counted(tmp_path: Path) -> None:
    read = read_requests(write(tmp_path, BURST))
    assert read.kind == "burstgpt"
    assert read.requests.arrival_s.tolist() == [0.0, 113.0]
    assert read.requests.output_tokens.tolist() == [18, 276]
    assert read.notes[0] == "1 rows without output tokens (failed requests) left out"
    with pytest.raises(RequestFileError, match=r"no requests after the header .1 rows without output tokens"):
        read_requests(write(tmp_path, "\n".join(BURST.split("\n")[i] for i in (0, 2)), "failed.csv"))


@pytest.mark.parametrize("packed", [False, True])
def test_mooncake(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path, gzip.compress(MOONCAKE.encode()) if packed else MOONCAKE, "mooncake.jsonl.gz")
    requests = read_requests(path).requests
    assert requests.arrival_s.tolist() == [0.0, 3.0]
    assert requests.block_tokens == 512
    assert requests.block_hashes is not None
    assert requests.block_starts is not None
    assert requests.block_hashes.tolist() == [0, 1, 2, 0]
    assert requests.block_starts.tolist() == [0, 3, 4]
    with pytest.raises(
        RequestFileError, match=r"request 2, field hash_ids: 2 blocks; its prompt has 1 of 512"
    ):
        read_requests(write(tmp_path, MOONCAKE.replace("[0]", "[0, 3]")))


def test_measured_run(tmp_path: Path) -> None:
    read = read_requests(write(tmp_path, RUN))
    assert (read.kind, read.notes) == ("run", ("columns not read: request_id, queued_ts",))
    assert read.requests.arrival_s.tolist() == [0.0, 1.5]


def test_own_columns(tmp_path: Path) -> None:
    requests = read_requests(write(tmp_path, OWN)).requests
    assert requests.session is not None
    assert requests.session[0] == requests.session[2] != requests.session[1]
    assert requests.priority is not None
    assert requests.priority.tolist() == [2, 0, 1]
    assert requests.cancel_s is not None
    assert requests.cancel_s.tolist() == [np.inf, 30.0, np.inf]


def test_own_json_lines_may_leave_fields_out_of_some_lines(tmp_path: Path) -> None:
    lines = [
        {"input_tokens": 1, "output_tokens": 2},
        {"input_tokens": 3, "output_tokens": 4, "priority": 5, "session": "x"},
    ]
    read = read_requests(write(tmp_path, "\n\n".join(map(json.dumps, lines)) + "\n"))
    assert read.kind == "own-jsonl"
    assert read.requests.priority is not None
    assert read.requests.priority.tolist() == [0, 5]
    assert read.requests.arrival_s.tolist() == [0.0, 0.0]
    assert "no arrival_s: all requests at time 0" in read.notes
    lines[1]["arrival_s"] = 3.0
    with pytest.raises(RequestFileError, match=r"line 2, field arrival_s: line 1 has none"):
        read_requests(write(tmp_path, "\n".join(map(json.dumps, lines))))


def test_rows_out_of_order_are_sorted_and_said(tmp_path: Path) -> None:
    read = read_requests(
        write(tmp_path, "arrival_s,input_tokens,output_tokens\n5,1,1\n2,2,2\n5,3,3\n4,4,4\n9,5,5\n")
    )
    assert read.requests.input_tokens.tolist() == [2, 4, 1, 3, 5]
    assert read.requests.arrival_s.tolist() == [0.0, 2.0, 3.0, 3.0, 7.0]
    assert "2 of 5 rows came after a later arrival; sorted by arrival" in read.notes


@pytest.mark.parametrize(
    "text", [AZURE, BURST, OWN, OWN.replace("anna,1", "8.,1"), AZURE.replace("\n", "\r\n")]
)
def test_all_rows_at_once_reads_as_row_by_row(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, text.replace("anna", "7"))
    fast = read_requests(path)
    monkeypatch.setattr(CsvReader, "_all_at_once", lambda self, block: None)
    assert_same(fast.requests, read_requests(path).requests)


@pytest.mark.parametrize("text", [MOONCAKE, RUN])
def test_objects_at_once_read_as_line_by_line(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, text)
    fast = read_requests(path)
    monkeypatch.setattr(JsonReader, "_all_at_once", lambda self, block: None)
    assert_same(fast.requests, read_requests(path).requests)


def assert_same(one: Requests, two: Requests) -> None:
    for entry in dataclasses.fields(Requests):
        left, right = getattr(one, entry.name), getattr(two, entry.name)
        assert (left is None) == (right is None), entry.name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=entry.name)


def test_plain_digits_take_the_way_of_all_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: CsvReader, line: int, block: bytes) -> None:
        raise AssertionError("row by row")

    monkeypatch.setattr(CsvReader, "_row_by_row", slow)
    assert len(read_requests(write(tmp_path, AZURE)).requests) == 3
    assert len(read_requests(write(tmp_path, BURST)).requests) == 2


def test_small_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (AZURE, BURST, OWN, MOONCAKE, RUN):
        path = write(tmp_path, text.rstrip("\n"))
        whole = read_requests(path)
        with monkeypatch.context() as patch:
            patch.setattr(request_lines, "_PIECE", 17)
            assert_same(whole.requests, read_requests(path).requests)


BAD = {
    "missing column": ("arrival_s,input_tokens\n0,1\n", r"line 1: missing column output_tokens \(own CSV: "),
    "no columns": ("a,b\n1,2\n", r"line 1: no known columns; expected one of: TIMESTAMP, .* \(Azure"),
    "twice": ("input_tokens,output_tokens,input_tokens\n1,2,3\n", "column input_tokens is there 2 times"),
    "zero": (AZURE.replace("3180", "0"), r"line 3, column ContextTokens: '0': expected a whole number from 1"),
    "negative": (AZURE.replace(",8\n", ",-8\n"), r"line 3, column GeneratedTokens: '-8': expected"),
    "text": (AZURE.replace("110", "many"), r"line 4, column ContextTokens: 'many': expected a number"),
    "nan": (OWN.replace("0.5", "nan"), r"line 3, column arrival_s: 'nan': expected a finite number"),
    "half": (OWN.replace("20", "20.5"), r"line 3, column input_tokens: '20.5': expected a whole number"),
    "empty value": (OWN.replace("0.5", ""), r"line 3, column arrival_s: empty; this value is needed"),
    "too many": (OWN.replace("30,3", "3000000000,3"), "line 4, column input_tokens: .* to 2,147,483,647"),
    "date": (AZURE.replace("11-17", "11-31"), r"line 3, column TIMESTAMP: .* day is out of range"),
    "no date": (AZURE.replace("2023-11-17 00:00:01.07", "107"), r"line 4, column TIMESTAMP: .* such as 2023"),
    "short row": (AZURE + "2023-11-17 00:00:02.0,5\n", r"line 5: 2 fields; expected 3 as in the header"),
    "quote": (OWN + '9,"1,1,,,\n', r"line 5: not CSV: unexpected end of data"),
    "empty": ("", "empty file; expected CSV with a header line, or JSON lines"),
    "blank": ("\n \n", "empty file"),
    "header only": (AZURE.split("\n")[0] + "\n", "no requests after the header"),
    "array": ("[" + MOONCAKE.replace("}\n{", "},\n{") + "]", r"line 1: a JSON array; expected one object per line"),
    "not json": (RUN + "{oops}\n", r"line 3: not JSON: Expecting property name"),
    "not an object": (RUN + "17\n", r"line 3: expected one JSON object per line"),
    "field": (RUN.replace('"output_toks": 6, ', ""), r"line 2, field output_toks: missing; this value"),
    "no field": ('{"a": 1}\n', r"line 1: no known fields; expected one of: timestamp, input_length"),
    "json nan": (RUN.replace("1777144892.0", "NaN"), r"line 2, field arrival_time: nan: expected a finite"),
    "json text": (MOONCAKE.replace("512", '"x"'), r"line 2, field input_length: 'x': expected a number"),
    "json true": (MOONCAKE.replace("512", "true"), r"line 2, field input_length: True: expected a number"),
    "json zero": (MOONCAKE.replace("7,", "0,"), r"line 2, field output_length: 0: expected a whole number"),
    "hashes": (MOONCAKE.replace("[0]", '["a"]'), r"line 2, field hash_ids: .* a list of whole numbers"),
    "year": (AZURE.replace("2023-11-17", "8888-11-17"), r"line 3, column TIMESTAMP: .* a year from 1700 to 2250"),
    "far": (OWN.replace("0.5", "1e300"), r"line 3, column arrival_s: '1e300': expected a number from -1e\+18"),
    "latin, not read": (BURST.encode().replace(b"GPT-4", b"GPT\xc3"), r"line 4: not UTF-8 text"),
    "return": (BURST.replace("GPT-4", "GPT\r4"), r"line 4: not CSV: new-line character"),
    "utf-16": (AZURE.encode("utf-16"), "not UTF-8 text; expected CSV or JSON lines"),
    "latin": (OWN.replace("anna", "änna").encode("latin-1"), r"line 2: not UTF-8 text"),
    "binary": (b"PAR1\0\0\0" * 10, "not UTF-8 text"),
    "cut gzip": (gzip.compress(AZURE.encode())[:-9], "damaged or cut off gzip file"),
    "bad gzip": (gzip.compress(AZURE.encode())[:-6] + b"abcdef", "damaged or cut off gzip file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_clear_error(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    path = write(tmp_path, text)
    with pytest.raises(RequestFileError, match=message) as caught:
        read_requests(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestFileError, match="no such file"):
        read_requests(tmp_path / "none.csv")
    with pytest.raises(RequestFileError, match="is a folder, expected a file"):
        read_requests(tmp_path)


def test_a_line_without_end_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    check = request_lines._pieces

    def counted(path: Path) -> object:
        for piece in check(path):
            read.append(len(piece))
            yield piece

    monkeypatch.setattr(request_lines, "_pieces", counted)
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.write(AZURE.encode() + b"2" * 5000)
        file.seek(2_000_000_000)  # a hole: 2 GB that take no room
        file.write(b"x")
    with pytest.raises(RequestFileError, match=r"line 5: longer than 8 MiB; expected one request per line"):
        read_requests(path)
    assert sum(read) < 16 << 20


def test_limit_looks_at_no_further_line(tmp_path: Path) -> None:
    path = write(tmp_path, AZURE + "broken\n")
    assert len(read_requests(path, limit=2).requests) == 2
    assert len(read_requests(write(tmp_path, BURST), limit=2).requests) == 2, "failures count for nothing"
    assert len(read_requests(write(tmp_path, "\n" + RUN.replace("\n", "\n\n")), limit=2).requests) == 2
    with pytest.raises(ValueError, match="limit 0: expected 1 or more"):
        read_requests(path, limit=0)


def example() -> Requests:
    return Requests(
        arrival_s=np.array([0.0, 1.0, 4.0]),
        input_tokens=np.array([5, 9, 13]),
        output_tokens=np.array([1, 2, 3]),
        block_tokens=4,
        block_hashes=np.array([7, 7, 8, 7, 8, 9]),
        block_starts=np.array([0, 1, 3, 6]),
        session=np.array([0, 1, 0]),
    )


def test_window_and_rate() -> None:
    inside = edits.window(example(), 1.0, 5.0)
    assert inside.arrival_s.tolist() == [0.0, 3.0]
    assert inside.block_hashes is not None
    assert inside.block_hashes.tolist() == [7, 8, 7, 8, 9]
    assert edits.rate_scaled(example(), 2.0).arrival_s.tolist() == [0.0, 0.5, 2.0]
    with pytest.raises(ValueError, match="window 5-9 s: no request arrives; the last one comes at 4 s"):
        edits.window(example(), 5.0, 9.0)
    with pytest.raises(ValueError, match="expected a start of 0 or more and an end after the start"):
        edits.window(example(), 3.0, 2.0)
    for factor in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"rate scale .*expected a number above zero"):
            edits.rate_scaled(example(), factor)


def test_repeats_keep_the_rate_and_share_nothing() -> None:
    many = edits.repeated(example(), 7)
    assert many.arrival_s.tolist() == [0.0, 1.0, 4.0, 6.0, 7.0, 10.0, 12.0]
    assert many.input_tokens.tolist() == [5, 9, 13, 5, 9, 13, 5]
    assert many.session is not None
    assert many.session.tolist() == [0, 1, 0, 2, 3, 2, 4]
    assert many.block_hashes is not None
    assert many.block_hashes.tolist() == [7, 7, 8, 7, 8, 9, 10, 10, 11, 10, 11, 12, 13]
    assert len(edits.repeated(example(), 2)) == 2


def test_changes_apply_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path, "arrival_s,input_tokens,output_tokens\n" + "".join(f"{i},{i + 1},1\n" for i in range(9))
    )
    read = read_requests(path, limit=6, window_s=(2, 99), rate_scale=2.0, repeat_to=5)
    assert read.requests.arrival_s.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert read.requests.input_tokens.tolist() == [3, 4, 5, 6, 3]
    assert read.notes == ("4 requests repeated to 5; repeats share no prefixes",)


@needs_data
def test_shared_traces() -> None:
    code = read_requests(DATA / "requests" / "AzureLLMInferenceTrace_code.csv").requests
    assert (len(code), int(code.input_tokens[-1]), int(code.output_tokens[-1])) == (8819, 549, 173)
    np.testing.assert_allclose(code.arrival_s[-1], 3435.948056, rtol=0, atol=1e-9)
    talk = read_requests(DATA / "requests" / "mooncake_conversation.jsonl.gz").requests
    assert len(talk) == 12031
    assert talk.block_starts is not None
    np.testing.assert_array_equal(np.diff(talk.block_starts), -(-talk.input_tokens // 512))
    for path in (DATA / "vllm_runs").glob("*/requests.jsonl"):
        assert len(read_requests(path).requests) == 300


def test_the_front_names_what_users_import() -> None:
    assert set(request_files.__all__) == {"RequestFile", "RequestFileError", "read_requests"}
