"""What is to be done, seen before anything is done."""

import shutil
import time

from caffeinit.batch.manifest import Manifest
from caffeinit.batch.planning import Order, Plan, plan


def test_planning_five_hundred_takes_a_moment(place):
    source = place / "zoo" / "first"
    for number in range(497):
        shutil.copytree(source, place / "zoo" / f"copy{number}")
    order = Order(place / "zoo", place / "out", "rescale", {"sources": ["x"], "mode": ["normalize"]})
    began = time.process_time()
    made: Plan = plan(order, Manifest(place / "none"))
    assert len(made.todo) == 500
    assert time.process_time() - began < 10  # about 2 s; every pair held against every other would take minutes
