"""Which code computes."""

from __future__ import annotations

from pathlib import Path

from tasks import codedigest
from tasks.codedigest import code_digest


def test_code_is_the_sources_the_shipped_weights_and_what_computes(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(codedigest.tasks, "__file__", str(tmp_path / "__init__.py"))
    for name, text in (("a.py", "1"), ("room/b.py", "2"), ("notes.txt", "3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def fresh(extra: str = "") -> str:
        code_digest.cache_clear()
        return code_digest(extra)

    before = fresh()
    (tmp_path / "notes.txt").write_text("4")
    assert fresh() == before
    (tmp_path / "room" / "b.py").write_text("5")
    after = fresh()
    assert after != before
    (tmp_path / "room" / "b.py").rename(tmp_path / "room" / "c.py")
    assert fresh() not in (before, after)
    weights = tmp_path / "pretrained" / "shipped" / "graft_x.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    shipped = fresh()
    weights.write_bytes(b"two")  # as graft pretrain makes them anew under their name
    assert len({before, after, shipped, fresh()}) == 4
    assert fresh("timm") != fresh()
    monkeypatch.setattr(codedigest, "COMPUTES", ("torch",))
    assert fresh() not in (before, after)
    code_digest.cache_clear()
