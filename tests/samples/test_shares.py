"""The one division of Wikipedia's articles."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from exporter.errors import QexportError
from exporter.samples.shares import SHARES, articles, share_of


def test_the_shares_cover_every_byte_once():
    assert sorted(byte for bytes_ in SHARES.values() for byte in bytes_) == list(range(256))


def test_a_text_stays_in_its_share():
    # sha256 of "a" begins with ca, of "abc" with ba, of "" with e3
    assert [share_of(text) for text in ("a", "abc", "")] == ["development", "development", "test"]
    counts = Counter(share_of(str(number)) for number in range(40_000))
    assert counts["calibration"] / 40_000 == pytest.approx(179 / 256, abs=0.01)
    assert counts["test"] / 40_000 == pytest.approx(39 / 256, abs=0.01)


def test_articles_are_those_of_one_share_in_their_order(own_cache):
    path = Path(os.environ["QEXPORT_CACHE"]) / "data" / "wikipedia" / "pl.jsonl"
    path.parent.mkdir(parents=True)
    texts = [str(number) for number in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = {share: list(articles("pl", share)) for share in SHARES}
    assert sorted(text for own in found.values() for text in own) == sorted(texts)
    assert all(own == [text for text in texts if share_of(text) == share] for share, own in found.items())
    with pytest.raises(QexportError, match=r"de.jsonl.*`python scripts/fetch_data.py wikipedia` fetches it"):
        next(articles("de", "test"))
