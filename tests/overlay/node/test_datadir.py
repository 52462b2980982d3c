import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.datadir import home, neighbours, open_data_dir, running_here, write_private
from overlay.errors import ConfigError, DataDirBusy


def test_the_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    with open_data_dir(tmp_path / "node") as directory:
        first = directory.identity()
    with open_data_dir(tmp_path / "node") as directory:
        assert directory.identity() == first


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with open_data_dir(tmp_path / "node") as directory:
            directory.identity()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "node" / "identity.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700


def test_a_second_process_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from overlay.datadir import open_data_dir\n"
        "with open_data_dir(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirBusy, match=f"process {holder.pid}"), open_data_dir(tmp_path):
            pass
        holder.communicate("")
    with open_data_dir(tmp_path):
        pass


def test_a_damaged_identity_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_text("not hex")
    with open_data_dir(tmp_path) as directory, pytest.raises(ConfigError, match="Restore it from a backup"):
        directory.identity()
    assert (tmp_path / "identity.key").read_text() == "not hex"


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"), open_data_dir(tmp_path / "file" / "node"):
        pass


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    write_private(tmp_path / "f", "one")
    write_private(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_nodes_of_one_machine_find_each_other_within_their_subnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCOON_HOME", str(tmp_path))
    assert home() == tmp_path
    code = (
        "import sys; from overlay.datadir import running_here\n"
        "with running_here('node', 'main', 'peer', ['/ip4/127.0.0.1/tcp/1/p2p/peer']):\n"
        "    print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        assert neighbours("main") == ["/ip4/127.0.0.1/tcp/1/p2p/peer"]
        assert neighbours("elsewhere") == []
        other.kill()
    assert neighbours("main") == [], "a process that was killed is not a neighbour"


def test_a_process_is_no_neighbour_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCOON_HOME", str(tmp_path))
    with running_here("node", "main", "me", ["/ip4/127.0.0.1/tcp/1/p2p/me"]):
        assert neighbours("main") == []
    assert not list((tmp_path / "run").iterdir())
