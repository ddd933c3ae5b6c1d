"""Certificates that are shown and renewed, while nothing runs and while workers and sessions do."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.deploy.certificates import make_authority
from sepnas.deploy.renew import certificates, renew
from sepnas.deploy.renewal_writer import write_renewal
from sepnas.deployment.verify import check_credential, exported_entry, load_manifest, verify_client, verify_deployment
from sepnas.errors import DeploymentError, HandshakeError, SepnasError, SpecError, StorageError
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.status import Inspector
from sepnas.runtime.engines.shard import load_shard
from sepnas.runtime.transport.identity import Identity
from sepnas.spec.hosts import parse_address
from tests.helpers_runtime import SOON_S, eventually, export_tiny, threads, worker_processes

EVERYONE = (0, 1, -1)


@pytest.fixture
def deployment(exported, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def short_lived(monkeypatch, network, folder, authority_days, days=5.0):
    """A deployment whose authority ends soon, or has ended."""
    monkeypatch.setattr("sepnas.deploy.writer.make_authority", lambda id_, _: make_authority(id_, authority_days))
    export_tiny(network, folder, validity_days=days)
    return folder


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def fingerprints(folder):
    return {each.holder: each.fingerprint for each in certificates(folder)}


def works(folder, hosts):
    with Session(folder, hosts) as session:
        return session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def served(hosts, rank):
    """The certificate that a worker shows to who connects now."""
    return ssl.get_server_certificate(parse_address(hosts.address(rank)), timeout=SOON_S).strip()


def in_force(folder, rank):
    manifest = load_manifest(folder)
    return (check_credential(folder, f"device{rank}/tls", manifest.files) / "cert.pem").read_text().strip()


# -- show


def test_show_lists_the_certificates_in_force(deployment):
    """All certificates with their days and fingerprints, as a table and as JSON; what is renewed shows at once."""
    renew(deployment, [1], days=365)
    result = call("certs", "show", deployment, "--json")
    found = {each["certificate"]: each for each in json.loads(result.stdout)}
    assert list(found) == ["authority", "device0", "device1", "client"]
    assert found["device1"]["days_left"] == pytest.approx(365, abs=0.01)
    assert found["authority"]["days_left"] > found["device0"]["days_left"] > 3640
    pem = ssl.PEM_cert_to_DER_cert(Path(found["device1"]["file"]).read_text())
    told = subprocess.run([sys.executable, "-c", "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read())"
                           ".hexdigest())"], input=pem, capture_output=True, check=True)  # fmt: skip
    assert found["device1"]["fingerprint_sha256"] == told.stdout.decode().strip()
    table = call("certs", "show", deployment).stdout
    for each in found.values():
        assert re.search(rf"{each['certificate']} .*{each['valid_to'][:10]}.* {each['fingerprint_sha256'][:16]}", table)


def test_show_marks_expired_certificates(network, tmp_path, monkeypatch):
    """An expired certificate is called that, and the others are shown beside it."""
    folder = short_lived(monkeypatch, network, tmp_path / "old", -1)
    assert re.search(r"authority .* expired", call("certs", "show", folder).stdout)


def test_show_leaves_out_missing_folders(deployment):
    """Where the devices' folders went to the devices, the others are shown."""
    shutil.rmtree(deployment / "device0")
    assert list(fingerprints(deployment)) == ["authority", "device1", "client"]


# -- renew


def test_renewed_pairs_are_in_force_and_check_out(deployment):
    """Everything that reads the deployment takes the new pairs, of which each is another one; keys are private."""
    before = fingerprints(deployment)
    for _ in range(2):
        result = call("certs", "renew", deployment)
        assert result.exit_code == 0
        assert result.stdout.count("scp -rp") == 3
        after = fingerprints(deployment)
        assert {holder for holder in before if before[holder] != after[holder]} == {"device0", "device1", "client"}
        before = after
    verify_deployment(deployment)
    for rank, holder in enumerate(("device0", "device1")):
        shard = load_shard(deployment / holder)
        Identity(check_credential(shard.folder, "tls", shard.manifest.files), rank, shard.manifest.deployment_id)
        assert len(list((deployment / holder / "tls").glob("renewed-*"))) == 1
    assert {key.stat().st_mode & 0o777 for key in deployment.rglob("key.pem")} == {0o600}


@pytest.mark.parametrize(
    ("options", "renewed"),
    [(["--device", "1"], {"device1"}), (["--client"], {"client"}),
     (["--device", "0", "--client"], {"device0", "client"})],
)  # fmt: skip
def test_only_those_that_are_named_are_renewed(deployment, options, renewed):
    """`--device` and `--client` choose."""
    before = fingerprints(deployment)
    assert call("certs", "renew", deployment, *options).exit_code == 0
    after = fingerprints(deployment)
    assert {holder for holder in before if before[holder] != after[holder]} == renewed


def test_renewed_elsewhere_the_deployment_stays_as_it_was(deployment, tmp_path):
    """`--out` writes folders that count when they are copied over those of the deployment, and not before."""
    before = fingerprints(deployment)
    result = call("certs", "renew", deployment, "--device", "0", "--out", tmp_path / "new")
    assert f"scp -rp {tmp_path / 'new/device0/tls'} " in result.stdout
    assert fingerprints(deployment) == before
    shutil.copytree(tmp_path / "new", deployment, dirs_exist_ok=True)
    assert fingerprints(deployment)["device0"] != before["device0"]
    verify_deployment(deployment)


def test_a_changed_byte_of_a_renewed_file_is_named(deployment):
    """What was renewed is covered by hashes like what was exported."""
    renew(deployment, EVERYONE)
    tls = deployment / "device0/tls"
    for path in (tls / "renewed.json", *sorted(next(tls.glob("renewed-*")).iterdir())):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        with pytest.raises(SepnasError, match=re.escape(path.name)):
            load_shard(deployment / "device0")
        path.write_bytes(data)
    load_shard(deployment / "device0")


def test_a_renewal_of_another_export_does_not_count(deployment, network):
    """Exported again and copied over the old folder, a device takes what was exported last."""
    renew(deployment, [0])
    old = deployment / "device0/tls/renewed.json"
    kept = old.read_bytes()
    export_tiny(network, deployment, ("torch", "onnxruntime"), force=True)
    exported = in_force(deployment, 0)
    old.write_bytes(kept)
    verify_deployment(deployment)
    assert in_force(deployment, 0) == exported


# -- what stops it


def test_whatever_stops_a_renewal_a_pair_is_whole(deployment, monkeypatch):
    """At every step that can fail a folder is left with its old pair or its new one, and without a rest of keys."""
    manifest = load_manifest(deployment)
    folder, replaces = deployment / "client/tls", exported_entry("client/tls", manifest.files)
    files = {name: (folder / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")}
    steps, real_open = 0, os.open

    def failing(call):
        def run(*arguments, **options):
            nonlocal steps
            reads = call is real_open and not arguments[1] & os.O_CREAT  # such as to remove what was begun
            steps -= not reads
            if steps == -1 and not reads:
                raise OSError(28, "No space left on device")
            return call(*arguments, **options)

        return run

    for owner, name in ((os, "open"), (os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "chmod")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    outcomes = []
    for after in range(20):
        steps = after
        marked = {name: data + b"%d\n" % after for name, data in files.items()}
        outcomes.append("old")
        with suppress(StorageError):
            write_renewal(folder, marked, replaces)
            outcomes[-1] = "new"
        steps = 1000
        verify_client(deployment)
        now = check_credential(deployment, "client/tls", manifest.files)
        assert ((now / "ca.pem").read_bytes() == marked["ca.pem"]) == (outcomes[-1] == "new")
        assert len(list(folder.glob(".renewing-*"))) == 0
        assert len(list(folder.glob("renewed-*"))) == (1 if "new" in outcomes else 0)
    assert outcomes.count("old") >= 10  # a folder whose names cannot be synced is no reason to stop
    assert outcomes[-3:] == 3 * ["new"]


@pytest.mark.slow
def test_a_renewal_that_is_killed_leaves_a_whole_pair(deployment):
    """SIGKILL at any moment leaves each folder valid, and the next renewal clears what it left."""
    code = (
        "from pathlib import Path; from sepnas.deploy.renew import renew; import sys\n"
        "print('ready', flush=True)\n"
        "while True: renew(Path(sys.argv[1]), (0, -1))"
    )
    for moment in range(6):
        process = subprocess.Popen([sys.executable, "-c", code, str(deployment)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.05 + 0.013 * moment)
        process.kill()
        process.wait()
        process.stdout.close()
        verify_deployment(deployment)
        shard = load_shard(deployment / "device0")
        Identity(check_credential(shard.folder, "tls", shard.manifest.files), 0, shard.manifest.deployment_id)
    renew(deployment, (0, -1))
    assert len([path for path in (deployment / "device0/tls").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "2"], r"`device` must be one of 0..1, got 2"),
        (["--days", "0"], r"`days` must be more than 0 and at most 7300, got 0\.0"),
        (["--days", "nan"], r"`days` must be more than 0 and at most 7300, got nan"),
    ],
)
def test_impossible_renewals_are_refused(deployment, options, says):
    """A device that is none and days that are none are named with what is allowed; nothing was changed."""
    before = fingerprints(deployment)
    result = call("certs", "renew", deployment, *options)
    assert isinstance(result.exception, SpecError)
    assert re.search(says, str(result.exception))
    assert fingerprints(deployment) == before


def test_a_new_authority_is_for_all():
    """`--authority` renews everything, so it goes with no choice of devices."""
    result = call("certs", "renew", "deployment", "--authority", "--client")
    assert result.exit_code == 2
    assert "applies to all devices" in result.stderr


def test_a_missing_or_foreign_authority_is_named(deployment, network, tmp_path):
    """Without its own authority nothing is signed, and the error says what would help."""
    authority = deployment / "authority"
    authority.rename(tmp_path / "kept")
    with pytest.raises(DeploymentError, match=r"has no authority/, which signs.*put back.*sepnas export --force"):
        renew(deployment, EVERYONE)
    export_tiny(network, tmp_path / "other")
    shutil.copytree(tmp_path / "other/authority", authority)
    with pytest.raises(DeploymentError, match=r"authority/ca\.pem: (sha256 is|has) .* the manifest says"):
        renew(deployment, EVERYONE)
    shutil.rmtree(deployment / "device0")
    shutil.rmtree(authority)
    shutil.copytree(tmp_path / "kept", authority)
    with pytest.raises(DeploymentError, match=r"has no device0; write elsewhere with --out FOLDER"):
        renew(deployment, EVERYONE)


def test_an_authority_near_its_end_is_reported(network, tmp_path, monkeypatch):
    """It signs nothing by default and nothing beyond its end; the error says how to make a new one."""
    folder = short_lived(monkeypatch, network, tmp_path / "soon", 20)
    remedy = rf"sepnas certs renew {re.escape(str(folder))} --authority"
    with pytest.raises(DeploymentError, match=rf"the authority expires in 20 days .*{remedy}"):
        renew(folder, EVERYONE)
    with pytest.raises(SpecError, match=rf"`days` is 30, but the authority expires in 20 days .*{remedy}"):
        renew(folder, EVERYONE, days=30)
    assert {round(each.days_left) for each in renew(folder, EVERYONE, days=15)} == {15}
    ended = short_lived(monkeypatch, network, tmp_path / "ended", -1)
    with pytest.raises(DeploymentError, match=r"the authority has expired .*--authority"):
        renew(ended, EVERYONE)


def test_an_expired_deployment_lives_again(network, tmp_path, monkeypatch):
    """Where all has expired, the error names the command, and with a new authority everything works, the status too."""
    folder = short_lived(monkeypatch, network, tmp_path / "ended", -1, days=1)
    with pytest.raises(HandshakeError, match=r"certificate has expired; check this .*sepnas certs renew DEPLOYMENT"):
        Session(folder)
    renew(folder, EVERYONE, new_authority=True)
    with threads(folder) as hosts:
        assert works(folder, hosts)
        with Inspector(folder, hosts) as inspector:
            # a session that was just left may still be on its way out
            eventually(lambda: [row.state for row in inspector.look()] == ["ready", "ready"])


# -- while workers run


def test_workers_take_renewed_certificates_without_a_restart(deployment):
    """The next connection gets the new certificate; a session that is open goes on, old and new understand each other.
    """  # fmt: skip
    with worker_processes(deployment, 2) as (_, hosts):
        with Session(deployment, hosts) as session:
            batch = random_batch(session.manifest, 1)
            answer = session.infer(batch)
            old = served(hosts, 0)
            assert old == in_force(deployment, 0)
            renew(deployment, [0])
            assert served(hosts, 0) == in_force(deployment, 0) != old
            assert (session.infer(batch) == answer).all()
        assert works(deployment, hosts)  # device 0 has a new one, device 1 and the client old ones
        renew(deployment, [1, -1])
        assert works(deployment, hosts)
        assert served(hosts, 1) == in_force(deployment, 1)


def test_a_renewal_that_has_not_come_as_a_whole_is_not_taken(deployment, tmp_path, caplog):
    """While files are still being copied a worker shows what it has; when they are there, the new certificate."""
    renew(deployment, [0], out=tmp_path / "new")
    new, tls = tmp_path / "new/device0/tls", deployment / "device0/tls"
    with threads(deployment) as hosts:
        old = served(hosts, 0)
        shutil.copy(new / "renewed.json", tls)
        assert served(hosts, 0) == old
        assert works(deployment, hosts)
        shutil.copytree(new, tls, dirs_exist_ok=True)
        limit = time.monotonic() + SOON_S
        while served(hosts, 0) == old and time.monotonic() < limit:
            time.sleep(0.1)
        assert served(hosts, 0) == in_force(deployment, 0) != old
        assert works(deployment, hosts)
    (told,) = (line for line in caplog.messages if "renewed certificates are not taken" in line)
    assert "is missing" in told


@pytest.mark.slow
def test_a_new_authority_comes_to_one_device_after_the_other(deployment, tmp_path):
    """Devices that trust both authorities work with those that know the old one only, and then with the new one."""
    with threads(deployment) as hosts:
        for options in (["--authority"], []):
            call("certs", "renew", deployment, *options, "--out", tmp_path / "new")
            for holder in ("device1", "client", "device0"):
                shutil.copytree(tmp_path / "new" / holder, deployment / holder, dirs_exist_ok=True)
                limit = time.monotonic() + SOON_S
                assert works(deployment, hosts)
                assert time.monotonic() < limit
    with threads(deployment) as hosts:
        assert works(deployment, hosts)
    found = fingerprints(deployment)
    assert list(found)[:2] == ["authority", "authority, before"]
    newest = (check_credential(deployment, "authority", load_manifest(deployment).files) / "ca.pem").read_text()
    only_new = tmp_path / "only-new.pem"
    only_new.write_text(newest[: newest.index("-----END CERTIFICATE-----") + 26])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(only_new)
    context.check_hostname = False
    with threads(deployment) as hosts, socket.create_connection(parse_address(hosts.address(0))) as sock:
        stranger = context.wrap_socket(sock)  # the new authority signed what the device shows
        with stranger, pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            stranger.recv(1)


# -- private keys


@pytest.mark.parametrize("key", ["device0/tls", "client/tls", "authority"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
@pytest.mark.parametrize("renewed", [False, True])
def test_a_key_that_others_may_use_is_refused_wherever_it_is_read(deployment, key, mode, renewed):
    """Whoever reads a private key with a wider mode refuses it with the command that repairs it, which does."""
    if renewed:
        renew(deployment, EVERYONE, new_authority=True)
    path = check_credential(deployment, key, load_manifest(deployment).files) / "key.pem"
    reads = {
        "device0/tls": lambda: load_shard(deployment / "device0"),
        "client/tls": lambda: verify_client(deployment),
        "authority": lambda: renew(deployment, [0]),
    }[key]
    path.chmod(mode)
    with pytest.raises(DeploymentError, match=rf"mode {mode:04o}\); run: chmod 600 {re.escape(str(path))}") as refused:
        reads()
    subprocess.run(re.search(r"run: (chmod 600 \S+)", str(refused.value))[1].split(), check=True)
    reads()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_another_user_is_refused(deployment):
    """Root refuses a key that a user owns, and could read and change, with the command that repairs it."""
    key = deployment / "device0/tls/key.pem"
    os.chown(key, 12345, -1)
    says = rf"belongs to another user \(uid 12345, sepnas runs as uid 0\); run: sudo chown 0 {re.escape(str(key))}"
    with pytest.raises(DeploymentError, match=says):
        load_shard(deployment / "device0")
    os.chown(key, 0, -1)
    load_shard(deployment / "device0")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_a_service_user_with_its_own_key_is_served(deployment):
    """A worker that runs as another user than root takes the key that it owns, and no other."""
    code = (
        "import os, sys\nfrom sepnas.errors import DeploymentError\n"
        "from sepnas.runtime.engines.shard import load_shard\n"
        "try: load_shard(sys.argv[1])\n"  # so that all modules are there: the user may not see where they lie
        "except DeploymentError: pass\n"
        "os.setegid(12345); os.seteuid(12345); load_shard(sys.argv[1])"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's folders are for its user alone
        Path(folder).chmod(0o755)
        device = shutil.copytree(deployment / "device0", Path(folder) / "device0")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        load = [sys.executable, "-c", code, str(device)]
        run = partial(subprocess.run, load, capture_output=True, text=True, env=environment)
        says = "belongs to another user (uid 0, sepnas runs as uid 12345); run: sudo chown 12345 "
        assert says in run().stderr
        os.chown(device / "tls/key.pem", 12345, 12345)
        assert run().stderr == ""
