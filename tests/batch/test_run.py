"""Whole batches, run as a user does: what is done stays done, what is changed is done again, kills do no harm."""

import json
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.batch.conftest import DEPLOY, NAMES, OTHER, content, write_net, write_weights
from tests.batch.processes import below, parents, wait_for
from tests.batch.running import batch, command, entries, run_here, times


def test_results_are_those_of_the_single_command(place):
    assert batch(place, "--beta", "0.5", "--jobs", "2").returncode == 0
    for name in NAMES:
        weights = place / "zoo" / name
        single = place / "single.caffemodel"
        arguments = ["rescale", weights.parent / "deploy.prototxt", weights, "-o", single, "--force", "--beta", "0.5"]
        arguments += ["--mode", "normalize", "--images", place / "pictures", "--json", place / "single.json", "--quiet"]
        assert run_here(arguments).returncode == 0
        assert (place / "out" / name).read_bytes() == single.read_bytes()
        ours, theirs = (json.loads(p.read_text()) for p in (place / "out" / f"{name}.json", place / "single.json"))
        assert ours["output"] == "net.caffemodel"
        assert ours["units"] == theirs["units"]
    assert [e["model"] for e in entries(place / "out")] == NAMES


def test_a_second_run_does_nothing_and_changes_nothing(place):
    batch(place)
    before, done = content(place / "out"), times(place / "out")
    again = batch(place)
    assert again.returncode == 0
    assert "3 ok, 0 failed" in again.stdout
    assert content(place / "out") == before
    assert times(place / "out") == done


def test_what_is_changed_is_done_again_and_nothing_else(place):
    batch(place)
    write_weights(place / "zoo" / "first" / "deploy.prototxt", seed=9)
    (place / "out" / NAMES[2]).unlink()
    (place / "zoo" / "deep" / "caffeinit.toml").write_text("beta = 3")
    batch(place)
    assert sorted(times(place / "out")[3:]) == sorted(NAMES)
    write_net(place / "zoo" / "new", OTHER)
    write_weights(place / "zoo" / "new" / "deploy.prototxt")
    batch(place)
    assert times(place / "out")[6:] == ["new/net.caffemodel"]
    fresh = batch(place, out="fresh")
    assert fresh.returncode == 0
    assert content(place / "out") == content(place / "fresh")


def test_changed_pictures_change_everything(place):
    batch(place)
    picture = place / "pictures" / "3.png"
    shutil.copy(place / "pictures" / "4.png", picture)
    batch(place)
    assert len(times(place / "out")) == 6


def test_number_of_jobs_and_threads_change_no_byte(place):
    """Without rates, that is: gradients are summed in another order by another number of threads."""
    batch(place, "--no-balance", "--jobs", "3")
    batch(place, "--no-balance", "--jobs", "1", "--threads", "2", out="other")
    assert content(place / "out") == content(place / "other")
    assert batch(place, "--no-balance", "--threads", "1").returncode == 0
    assert len(times(place / "out")) == 3


def test_a_failure_does_not_end_the_run_and_is_named_last(place):
    net = write_net(place / "zoo" / "first", DEPLOY.replace("num_output: 6", "num_output: 7"))
    write_weights(net)
    net.write_text(OTHER)
    data = (place / "zoo" / NAMES[0]).read_bytes()
    (place / "zoo" / "cut.caffemodel").write_bytes(data[: len(data) // 2])
    done = batch(place)
    assert done.returncode == 1
    assert (place / "out" / NAMES[2]).exists()
    last = done.stdout.splitlines()[-2:]
    assert last[0].startswith("failed: cut.caffemodel: is no caffemodel, or one that is damaged or cut off")
    assert last[1].startswith("failed: first/net.caffemodel: no net in the folder fits these weights")
    assert {e["model"]: e["result"] for e in entries(place / "out")} == {
        "cut.caffemodel": "failed",
        NAMES[0]: "ok",
        "first/deploy.prototxt": "left out",
        NAMES[1]: "failed",
        NAMES[2]: "ok",
    }


def test_a_long_reason_is_cut_where_it_repeats_itself(place):
    text = DEPLOY.replace("input_param { shape { dim: 1 dim: 3 dim: 12 dim: 10 } }", "")
    write_net(place / "zoo" / "first", text)
    done = batch(place)
    hint, line = done.stdout.splitlines()[-2:]
    assert "caffeinit.toml beside it: input_shape = { data = [3, 224, 224] }" in hint
    assert line == (
        "failed: first/net.caffemodel: no layer with weights can run: conv1: the shape of input "
        '"data" is not known: give --input-shape data=C,H,W; and 2 layers behind it: relu1, ip'
    )


def test_options_that_no_settings_can_give_are_no_hint(place):
    (place / "out" / "first").mkdir(parents=True)
    (place / "out" / "first" / "net.caffemodel").write_bytes(b"mine")
    outcome = batch(place)
    assert "--force replaces it" in outcome.stdout
    assert "caffeinit.toml" not in outcome.stdout


def test_why_files_were_left_out_is_told_by_reasons(place):
    for name in ("a.prototxt", "b.prototxt"):
        (place / "zoo" / name).write_text("")
    outcome = batch(place)
    assert outcome.returncode == 0
    reason = "speaks of no layers: a solver, a label map, or empty"
    assert f"left out: a.prototxt, b.prototxt: {reason}" in outcome.stdout.splitlines()
    assert "left out" not in batch(place, "--quiet").stdout


def test_settings_without_effect_are_told(place):
    text = '[nets."third*"]\nbeta = 1\n[nets."nothing*"]\nbeta = 2\n[nets."first/*.prototxt"]\nbeta = 3\n'
    (place / "zoo" / "caffeinit.toml").write_text(text)
    (place / "zoo" / "third" / "deploy.prototxt").rename(place / "zoo" / "third" / "third.prototxt")
    said = 'note: caffeinit.toml, nets."nothing*": matches no net and no weights in or below its folder\n'
    assert batch(place, "--dry-run").stderr == said
    assert said in batch(place).stderr


def test_the_zoo_itself_takes_no_results(place):
    outcome = batch(place, out="zoo")
    assert outcome.returncode == 2
    assert "is the zoo itself; the results need a folder of their own" in outcome.stderr
    assert not (place / "zoo" / "manifest.jsonl").exists()


def test_names_of_a_zoo_are_shown_and_not_obeyed(place):
    net = write_net(place / "zoo" / "a\x1b[2Jb\u202e", DEPLOY)
    (net.parent / "\x1b]0;owned\x07.caffemodel").write_bytes(b"nothing")
    write_weights(net)
    (place / "zoo" / "first").mkdir(exist_ok=True)
    planned, done = batch(place, "--dry-run"), batch(place)
    assert (planned.returncode, done.returncode) == (0, 1)
    for shown in (planned.stdout, planned.stderr, done.stdout, done.stderr):
        assert [c for c in shown if not c.isprintable() and c not in "\n\t"] == []
    assert "\\x1b]0;owned" in done.stdout


def test_failures_are_tried_again(place):
    (place / "pictures").rename(place / "away")
    first = batch(place)
    assert first.returncode == 1
    assert "pictures: not found" in first.stdout
    (place / "away").rename(place / "pictures")
    assert batch(place).returncode == 0
    assert batch(place, out="fresh").returncode == 0
    assert content(place / "out") == content(place / "fresh")


def test_an_older_success_leaves_nothing_when_the_model_fails(place):
    batch(place)
    weights = place / "zoo" / NAMES[1]
    weights.write_bytes(weights.read_bytes()[:100])
    assert batch(place).returncode == 1
    assert not (place / "out" / NAMES[1]).exists()
    assert not (place / "out" / f"{NAMES[1]}.json").exists()


def test_files_of_others_stay(place):
    target = place / "out" / NAMES[0]
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    done = batch(place)
    assert done.returncode == 1
    assert "exists already and is not this batch's; --force replaces it" in done.stdout
    assert target.read_text() == "mine"
    assert batch(place, "--force").returncode == 0
    assert content(place / "out").keys() == {"manifest.jsonl", *NAMES, *(f"{n}.json" for n in NAMES)}


def test_settings_beside_a_net(place):
    (place / "zoo" / "caffeinit.toml").write_text('mode = "equalize"\n[nets."third/*"]\nskip = true\n')
    (place / "zoo" / "first" / "caffeinit.toml").write_text('mode = "normalize"\nbeta = 7\n')
    assert batch(place).returncode == 0
    options = {e["model"]: e["options"] for e in entries(place / "out") if e["result"] == "ok"}
    assert {n: o["mode"] for n, o in options.items()} == {NAMES[0]: ["equalize"], NAMES[1]: ["normalize"]}
    assert options[NAMES[1]]["beta"] == ["7"]
    assert not (place / "out" / "third").exists()


def test_a_dry_run_lists_and_writes_nothing(place):
    (place / "zoo" / "odd.caffemodel").write_text("<html>")
    done = batch(place, "--dry-run")
    assert not (place / "out").exists()
    assert "do        first/deploy.prototxt + first/net.caffemodel -> first/net.caffemodel (new)" in done.stdout
    assert "failed    odd.caffemodel" in done.stdout
    assert done.stdout.endswith("3 to do, 0 done already, 0 left out, 1 cannot be done\n")


def test_a_dry_run_does_not_stop_at_a_model_without_pictures(place):
    (place / "zoo" / "first" / "caffeinit.toml").write_text(f'images = "{place}/pictures"')
    done = run_here(["batch", place / "zoo", "-o", place / "out", "--dry-run"])
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["do", "lacks", "lacks"]
    assert "job rescale needs --images: on the command line for all, or as images in a caffeinit.toml" in lines[1]
    assert lines[-1] == "1 to do, 0 done already, 0 left out, 0 cannot be done, 2 lack an option"
    real = run_here(["batch", place / "zoo", "-o", place / "out"])
    assert real.returncode == 2
    assert "That is the first of 2 models" in real.stderr


def test_a_dry_run_is_told_as_data(place):
    (place / "zoo" / "odd.caffemodel").write_text("<html>")
    told = json.loads(batch(place, "--dry-run", "--json", "-").stdout)
    assert [t["model"] for t in told["todo"]] == NAMES
    assert told["todo"][0]["outputs"] == [NAMES[0], f"{NAMES[0]}.json"]
    assert told["todo"][0]["why"] == "new"
    assert list(told["failed"]) == ["odd.caffemodel"]
    assert (told["have"], told["left out"], told["lacking"]) == ([], {}, {})
    assert "do " in batch(place, "--dry-run", "--json", place / "plan.json").stdout
    assert json.loads((place / "plan.json").read_text()) == told
    assert not (place / "out").exists()


def test_json_tells_all(place):
    found = json.loads(batch(place, "--json", "-").stdout)
    assert found["counts"] == {"ok": 3, "failed": 0, "left out": 0}
    assert [m["model"] for m in found["models"]] == NAMES
    assert found["models"][0]["summary"] == "2 of 2 units changed"


def test_json_takes_the_place_of_an_earlier_one_alone(place):
    target, net = place / "told.json", place / "zoo" / "notes"
    net.write_text("# mine")
    for path, message in ((net, "exists already; --force replaces it"), (place / "no" / "x.json", "does not exist")):
        refused = batch(place, "--json", path)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert not (place / "out").exists()
    assert net.read_text() == "# mine"
    net.unlink()
    for more in (("--dry-run",), (), ()):
        batch(place, "--json", target, *more)
    assert json.loads(target.read_text())["counts"]["ok"] == 3


def test_one_line_for_each_model(place):
    lines = batch(place).stderr.splitlines()
    assert sorted(line.split("  ")[0] for line in lines) == NAMES
    assert batch(place, "--quiet", out="other").stderr == ""


def test_measure_leaves_only_its_result(place):
    done = run_here(["batch", place / "zoo", "-o", place / "m", "--job", "measure", "--images", place / "pictures"])
    assert done.returncode == 0
    assert content(place / "m").keys() == {"manifest.jsonl", *(f"{n}.json" for n in NAMES)}
    found = json.loads((place / "m" / f"{NAMES[0]}.json").read_text())
    assert [u["name"] for u in found["units"]] == ["conv1", "ip"]
    assert {e["summary"] for e in entries(place / "m")} == {"2 units"}


def test_init_and_convert_and_upgrade(place):
    run = ["batch", place / "zoo", "-o"]
    run_here([*run, place / "i", "--job", "init", "--images", place / "pictures", "--method", "ip=xavier"])
    assert content(place / "i").keys() >= {n.replace("net", "deploy") for n in NAMES}
    done = run_here([*run, place / "c", "--job", "convert"])
    assert (done.returncode, done.stderr.count("FAILED")) == (0, 0), done.stderr
    assert content(place / "c").keys() == {"manifest.jsonl", *(n.replace("caffemodel", "onnx") for n in NAMES)}
    run_here([*run, place / "u", "--job=upgrade"])
    assert (place / "u" / NAMES[0]).read_bytes() == (place / "zoo" / NAMES[0]).read_bytes()
    assert len(content(place / "u")) == 7


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["zoo", "--mode", "normalize"], 2, "job rescale needs --images"),
        (["zoo", "--job", "convert", "--images", "pictures"], 2, "No such option"),
        (["zoo", "--mode", "nonsense"], 2, "'nonsense' is not one of"),
        (["zoo", "--job", "inspect"], 2, "'inspect' is not one of"),
        (["zoo", "--filters", "f.png"], 2, "No such option"),
        (["zoo", "--job", "convert", "--jobs", "2", "--dask", "tcp://127.0.0.1:1"], 2, "--jobs is for this machine"),
        (["pictures", "--mode", "normalize", "--images", "pictures"], 1, "no model for job rescale"),
        (["nowhere", "--mode", "normalize", "--images", "pictures"], 1, "is no folder"),
        (["zoo", "--model-memory", "much", "--job", "convert"], 2, "no size of memory"),
    ],
)
def test_wrong_usage_is_told(place, monkeypatch, arguments, code, words):
    monkeypatch.chdir(place)
    done = run_here(["batch", *arguments, "-o", "out"])
    assert done.returncode == code
    assert words in done.stderr


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_manifest_that_cannot_be_read_is_told(place, more):
    (place / "out" / "manifest.jsonl").mkdir(parents=True)
    done = batch(place, *more)
    assert done.returncode == 1
    assert "manifest.jsonl: cannot be read: is a directory" in done.stderr


def test_a_full_disk_ends_the_batch_with_a_word(place):
    """The limit on files' size stands in for the disk's end: the manifest can take no second line."""
    assert batch(place).returncode == 0
    (place / "out" / NAMES[0]).unlink()
    size = (place / "out" / "manifest.jsonl").stat().st_size
    run = f"ulimit -f {size // 1024}; trap '' XFSZ; exec " + shlex.join(command(place))
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the same command goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
    assert batch(place).returncode == 0
    assert batch(place, out="fresh").returncode == 0
    assert content(place / "out") == content(place / "fresh")


def test_one_folder_holds_one_job(place):
    batch(place)
    done = run_here(["batch", place / "zoo", "-o", place / "out", "--job", "convert"])
    assert done.returncode == 1
    assert "holds the results of job rescale" in done.stderr


def slow(place, copies=4):
    """Make a zoo that takes some seconds."""
    shutil.rmtree(place / "zoo")
    text = DEPLOY.replace("dim: 12 dim: 10", "dim: 96 dim: 96").replace("num_output: 6", "num_output: 32")
    for number in range(copies):
        write_weights(write_net(place / "zoo" / str(number), text), seed=number)


def test_a_second_batch_is_kept_out(place):
    slow(place)
    with subprocess.Popen(command(place), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as first:
        wait_for(lambda: (place / "out" / ".batch" / "work").exists())
        second = batch(place)
        assert second.returncode == 1
        assert "another batch is writing there" in second.stderr
        assert first.wait(60) == 0


@pytest.mark.parametrize(("how", "times"), [(signal.SIGKILL, 3), (signal.SIGTERM, 1), (signal.SIGINT, 1)])
def test_a_killed_run_goes_on_to_the_same_bytes(place, how, times):
    slow(place)
    assert batch(place, "--jobs", "2", out="whole").returncode == 0
    rng = np.random.default_rng(how)
    for _ in range(times):
        with subprocess.Popen(
            command(place, "--jobs", "2"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as run:
            time.sleep(rng.uniform(0.4, 2))
            started = set(below(run.pid))
            run.send_signal(how)
        while started & set(parents()):  # none of them outlives the batch for long
            time.sleep(0.01)
    assert batch(place, "--jobs", "2").returncode == 0
    assert content(place / "out") == content(place / "whole")
    assert sorted(p.name for p in (place / "out" / ".batch").iterdir()) == ["lock"]


def test_a_kill_between_the_line_and_the_files_is_completed(place):
    batch(place)
    out = place / "out"
    entry = next(e for e in entries(out) if e["model"] == NAMES[1])
    ready = out / ".batch" / "done" / entry["key"] / "files"
    ready.mkdir(parents=True)
    (out / NAMES[1]).rename(ready / "net.caffemodel")
    before = len(times(out))
    assert batch(place).returncode == 0
    assert (out / NAMES[1]).exists()
    assert len(times(out)) == before
    assert not (out / ".batch" / "done").exists()


def test_patterns_are_for_the_zoo_and_need_not_match_in_every_model(place):
    write_weights(write_net(place / "zoo" / "third", OTHER.replace('"ip"', '"fc"')))
    outcome = batch(place, "--layers", "ip,fc*", "--method", "ip=pca", "--reinit", "ip")
    assert outcome.returncode == 0
    results = {e["model"]: (e["result"], e["reason"]) for e in entries(place / "out")}
    assert [results[name] for name in NAMES[:2]] == [("ok", "")] * 2
    reason = '--reinit: no layer with weights matches "ip"; there are: "conv1", "fc"'
    assert results[NAMES[2]] == ("left out", reason)
    assert not (place / "out" / NAMES[2]).exists()
    told = json.loads((place / "out" / f"{NAMES[1]}.json").read_text())["notes"]
    assert '--layers: no layer with weights matches "fc*"; there are: "conv1", "ip"' in told
    shutil.rmtree(place / "out")
    assert batch(place, "--layers", "ip,fc*").returncode == 0
    assert batch(place, "--layers", "cnov*", out="other").returncode == 1
    assert all(e["result"] == "left out" and 'nearest: "conv1"' in e["reason"] for e in entries(place / "other"))
