"""SQLite is refused where other machines may write to the same file, whatever it is reached by."""

import os
from pathlib import Path

import pytest

from registry import Registry, RegistrySettings, RegistryUnavailable, database
from registry.mounts import Mount, check_local, mounts

ROOT = Mount("/", "ext4")


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "fuse.sshfs", "fuse.glusterfs", "9p"],
)
def test_a_network_file_system_is_refused_with_its_name(kind: str) -> None:
    mounted = [ROOT, Mount("/srv/team", kind)]
    with pytest.raises(RegistryUnavailable, match=kind) as caught:
        check_local(Path("/srv/team/home/registry.db"), mounted)
    assert "/srv/team" in caught.value.message
    assert "LORIKEET_DATABASE_URL=postgresql://" in str(caught.value.remedy)
    check_local(Path("/srv/team2/registry.db"), mounted)
    check_local(Path("/registry.db"), mounted)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "apfs"])
def test_a_disk_of_this_machine_is_taken(kind: str) -> None:
    check_local(Path("/srv/registry.db"), [Mount("/", "nfs4"), Mount("/srv", kind)])


def test_the_closest_mount_decides_and_the_last_one_on_a_folder() -> None:
    nfs, disk = Mount("/data", "nfs4"), Mount("/data/local", "xfs")
    check_local(Path("/data/local/registry.db"), [disk, ROOT, nfs])
    with pytest.raises(RegistryUnavailable):
        check_local(Path("/data/other/registry.db"), [disk, ROOT, nfs])
    with pytest.raises(RegistryUnavailable):
        check_local(Path("/data/registry.db"), [Mount("/data", "xfs"), nfs])
    check_local(Path("/data/registry.db"), [nfs, Mount("/data", "xfs")])


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "home").symlink_to("there")
    mounted = [ROOT, Mount(str(tmp_path / "there"), "nfs4")]
    with pytest.raises(RegistryUnavailable):
        check_local(tmp_path / "home" / "registry.db", mounted)


def test_what_is_mounted_here_is_known(tmp_path: Path) -> None:
    assert any(Path(mount.folder) == Path("/") for mount in mounts())
    assert all(mount.kind for mount in mounts() if os.path.ismount(mount.folder))
    check_local(tmp_path / "registry.db", mounts())


def test_a_registry_there_is_not_opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "mounts", lambda: [ROOT, Mount(str(home), "nfs4")])
    with pytest.raises(RegistryUnavailable, match="one machine only"):
        Registry.open()
    assert not (home / "registry.db").exists()
    elsewhere = home.parent / "registry.db"
    with Registry.open(RegistrySettings(home=home, database_url=f"sqlite:///{elsewhere}")):
        assert elsewhere.exists()
