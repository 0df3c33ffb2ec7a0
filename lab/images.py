"""The lab's images. An image carries the hash of its recipe, and is built when that differs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import base, docker, image_store, kinto, locks, nocodb
from lab.progress import Progress

FOLDER = Path(__file__).resolve().parent / "images"
IMAGE_LABEL = "swarmkeep.lab.image"
RECIPE_LABEL = "swarmkeep.lab.recipe"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Image:
    """One image: its folder below lab/images, its tag, Debian's suite below it, what else its
    Dockerfile is given, and, of a node's, the image that its engine has from the beginning.
    """

    name: str
    tag: str
    suite: str = "bookworm"
    arguments: tuple[str, ...] = ()
    holds: Image | None = None


def base_of(suite: str) -> Image:
    """What all images of a suite have in common."""
    return Image("base", f"swarmkeep-lab/base:{suite}", suite)


BASE = base_of("bookworm")
NODE = Image("node", "swarmkeep-lab/node:bookworm")
S3 = Image("s3", "swarmkeep-lab/s3:bookworm")
# Their tags are those that hosts.yaml names: a major version and a suite, a version.
POSTGRES = Image("postgres", "swarmkeep-lab/postgres:15-bookworm")
# The newer major version: for tests that need one, no lab has it from the beginning.
POSTGRES_17 = Image(
    "postgres",
    "swarmkeep-lab/postgres:17-trixie",
    "trixie",
    ("FROM=swarmkeep-lab/base:trixie", "MAJOR=17"),
)
NOCODB = Image("nocodb", "swarmkeep-lab/nocodb:0.301.3")
NODE_DB = Image("node-with-image", "swarmkeep-lab/node:db", holds=POSTGRES)
NODE_APP = Image("node-with-image", "swarmkeep-lab/node:app", holds=NOCODB)
# What tests of monitoring/ need, and no lab: it is built when they begin.
MONITORING = Image("monitoring", "swarmkeep-lab/monitoring:bookworm")
# The reverse proxy, and an ACME server to give it certificates: for the tests of the proxy.
CADDY = Image("caddy", "swarmkeep-lab/caddy:2.6.2")
ACME = Image("acme", "swarmkeep-lab/acme:bookworm")
# Another app with a database and files, in two versions: for the tests of apps beside NocoDB.
KINTO_BEFORE = Image("kinto", "swarmkeep-lab/kinto:25.0.3")
KINTO = Image("kinto", "swarmkeep-lab/kinto:26.5.0")
WITHOUT_LAB = (MONITORING, POSTGRES_17, CADDY, ACME, KINTO_BEFORE, KINTO)
# The longest build first, what is made of others last.
ALL = (NOCODB, NODE, S3, POSTGRES, NODE_DB, NODE_APP)
OF_MEMBER = {"manager1": NODE, "db1": NODE_DB, "app1": NODE_APP, "s3": S3}


def recipe(image: Image) -> str:
    """The hash of everything an image is made of; the base's files count for every image."""
    of = [recipe(NODE), recipe(image.holds)] if image.holds else []
    digest = hashlib.sha256(" ".join((image.suite, *image.arguments, *of)).encode())
    for folder in (FOLDER / BASE.name, FOLDER / image.name):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            executable = bool(path.stat().st_mode & 0o100)
            digest.update(f"{path.relative_to(FOLDER)} {executable} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def missing(images: tuple[Image, ...] = ALL) -> list[Image]:
    """The images that are not there, or not as their recipe says."""
    return [image for image in images if _recipe_of(image) != recipe(image)]


def ensure(progress: Progress, images: tuple[Image, ...] = ALL) -> None:
    """Build what is missing, several images at a time."""
    with progress.step("images") as step:
        wanted = missing(images)
        step.found(f"{len(wanted)} to build" if wanted else "all there")
    if not wanted:
        return
    with progress.step("lock on the images") as step:
        lock = locks.shared("images", lambda: step.doing("another lab.up is building images"))
        lock.__enter__()
    try:
        _build_all(progress, missing(images))
    finally:
        lock.__exit__(None, None, None)


def _build_all(progress: Progress, wanted: list[Image]) -> None:
    with tempfile.TemporaryDirectory(prefix="swarmkeep-lab-", dir="/var/tmp") as folder:
        work = Path(folder)
        with ThreadPoolExecutor(len(ALL) + 1) as pool:
            bases = {
                suite: pool.submit(_ensure_base, progress, base_of(suite), work)
                for suite in {image.suite for image in wanted}
            }

            def make(image: Image) -> None:
                # Before the copy: should a file change in between, the image counts as old.
                made_from = recipe(image)
                context = _context(image, work)
                if image is NOCODB:
                    # npm needs no base image: the longest part begins at once.
                    nocodb.build(progress, FOLDER / image.name, context)
                elif image.name == KINTO.name:
                    kinto.build(progress, context, image.tag.rpartition(":")[2])
                bases[image.suite].result()
                if image.holds:
                    for one in {NODE, image.holds} & builds.keys():
                        builds[one].result()
                    store = context / "image-store.tar"
                    image_store.pack(progress, NODE.tag, image.holds.tag, store)
                more = [f"--build-arg={argument}" for argument in image.arguments]
                _build(progress, image, made_from, context, *more)

            builds: dict[Image, Future[None]] = {}
            for image in wanted:
                builds[image] = pool.submit(make, image)
            for future in builds.values():
                future.result()


def _ensure_base(progress: Progress, image: Image, work: Path) -> None:
    made_from = recipe(image)
    if _recipe_of(image) == made_from:
        return
    official = base.official(image.suite)
    found_before = docker.inspect("image", official) is not None
    source = base.ensure(progress, image.suite, ["--change", f"LABEL {IMAGE_LABEL}=rootfs"])
    context = _context(image, work)
    bundle = nocodb.ca_bundle()
    (context / "ca-bundle.pem").write_bytes(bundle.read_bytes() if bundle else b"")
    _build(progress, image, made_from, context, "--build-arg", f"FROM={source}")
    if source == official and not found_before:
        # Its layers live on in ours; the name was not there before us and goes again.
        docker.attempt("image", "rm", source)


def _context(image: Image, work: Path) -> Path:
    # A name of its own: one recipe can make two images.
    return Path(shutil.copytree(FOLDER / image.name, work / image.tag.replace("/", "-")))


def _build(progress: Progress, image: Image, made_from: str, context: Path, *more: str) -> None:
    old = docker.inspect("image", image.tag)
    # Docker knows these build arguments without a Dockerfile naming them, and keeps no trace.
    proxies = [f"--build-arg={name}" for name in PROXIES if os.environ.get(name)]
    with progress.step(f"image {image.tag.rpartition('/')[2]}") as step:
        docker.stream(
            "docker", "build", "--force-rm", "--tag", image.tag,
            "--label", f"{IMAGE_LABEL}={image.name}", "--label", f"{RECIPE_LABEL}={made_from}",
            *proxies, *more, str(context),
            on_line=step.doing, environment=dict(os.environ, BUILDKIT_PROGRESS="plain"),
        )  # fmt: skip
    new = docker.inspect("image", image.tag)
    if old and new and old["Id"] != new["Id"]:
        docker.attempt("image", "rm", old["Id"])  # stays if a container still uses it


def _recipe_of(image: Image) -> str:
    found = docker.inspect("image", image.tag)
    labels = (found or {}).get("Config", {}).get("Labels") or {}
    return str(labels.get(RECIPE_LABEL, ""))


def remove(progress: Progress) -> list[str]:
    """Remove every image of the lab; return the names of those that are still in use."""
    kept = []
    with progress.step("images removed"):
        tags = [image.tag for image in (*ALL, *WITHOUT_LAB)]
        for suite in base.SUITES:
            tags += [base_of(suite).tag, base.own(suite)]
        for tag in tags:
            found = docker.inspect("image", tag)
            if not found or IMAGE_LABEL not in (found["Config"].get("Labels") or {}):
                continue
            if docker.attempt("image", "rm", tag).returncode:
                kept.append(tag)
    return kept
