"""The commands that install and start an engine, begin a Swarm, and join one.

Join tokens let anybody into the Swarm, so they are on no command line (`docker swarm join`
takes them as an argument, which every process list shows), in no output and in no log: they
travel through stdin to the Engine API.
"""

from __future__ import annotations

import shlex

from fabfile.base.secret import Secret
from fabfile.nodes.host_facts import PATH
from fabfile.ssh.remote_command import Command

ENGINE_SECONDS = 60
"""How long an engine may take to answer after its start."""


def install_engine() -> Command:
    """The command that installs docker.io on Debian or Ubuntu; files edited by hand are kept."""
    get = (
        "apt-get -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold -qq -y "
        "--no-install-recommends install docker.io >/dev/null"
    )
    return Command(
        f"{PATH}export DEBIAN_FRONTEND=noninteractive\n"
        # The package lists of a fresh machine are missing or old: then fetch them and try again.
        f"{get} 2>/dev/null || {{ apt-get -qq update && {get}; }}"
    )


def start_engine() -> Command:
    """The command that starts the engine where it does not answer, and waits until it does."""
    return Command(
        f"{PATH}"
        "docker info >/dev/null 2>&1 && exit 0\n"
        "if [ -d /run/systemd/system ]; then systemctl enable --now docker >&2 || exit 1\n"
        "else service docker start >&2 || exit 1; fi\n"
        f"end=$(( $(date +%s) + {ENGINE_SECONDS} ))\n"
        "until docker info >/dev/null 2>&1; do\n"
        '  [ "$(date +%s)" -lt "$end" ] || '
        f"{{ echo 'it does not answer after {ENGINE_SECONDS} s' >&2; exit 1; }}\n"
        "  sleep 0.3\n"
        "done\n"
        "echo started"
    )


def init_swarm(address: str) -> Command:
    """The command that makes a machine the first manager. Its output would show a join token."""
    return Command(f"docker swarm init --advertise-addr {shlex.quote(address)} >/dev/null")


# perl is Essential on Debian and Ubuntu (perl-base), curl is on nearly everything else. Both
# read the body from stdin and print the engine's answer. HTTP/1.0, so that nothing is chunked.
_PERL = r"""use IO::Socket::UNIX;
local $/; my $body = <STDIN>;
my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!\n";
print $s "POST /swarm/join HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n",
  "Content-Length: ", length($body), "\r\n\r\n", $body;
my ($head, $said) = split /\r\n\r\n/, <$s>, 2;
exit 0 if $head =~ m{^HTTP/\S+ 200};
print STDERR $said; exit 1;
"""


def post_join(socket: str = "/var/run/docker.sock") -> str:
    """Shell text that posts stdin to the engine's /swarm/join; fails with the engine's words.

    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Swarm/operation/SwarmJoin
    """
    return (
        "if command -v perl >/dev/null; then\n"
        f"  perl -e {shlex.quote(_PERL)} {socket}\n"
        "else\n"
        f"  said=$(curl -sS --unix-socket {socket} -H 'Content-Type: application/json' "
        "-d @- -w '\\n%{http_code}' http://docker/swarm/join) &&\n"
        '  case $said in *200) ;; *) printf "%s\\n" "$said" | head -n 1 >&2; false ;; esac\n'
        "fi"
    )


CHANGED = 3
"""Exit code of `join_swarm` where the machine is no longer as it was seen; it prints how it is."""

# "state:id"; `seen` is how it was when the plan was made. Another swarm.init or a person may have
# joined the machine since, and leaving would then throw a working node out of its Swarm.
# A join that failed would go on in the background, so it is ended, but only if it is ours.
_JOIN = """now() { docker info --format '{{.Swarm.LocalNodeState}}:{{.Swarm.NodeID}}'; }
leave() { docker swarm leave --force >/dev/null 2>&1; }
found=$(now) || exit 1
[ "$found" = @SEEN@ ] || { printf '%s\n' "$found"; exit @CHANGED@; }
[ "$found" = inactive: ] || leave
if said=$({
@POST@
} 2>&1); then
  found=$(now) && echo "${found#*:}"
  exit
fi
printf '%s\n' "$said" >&2
found=$(now)
case $said in *'already part of a swarm'*) printf '%s\n' "$found"; exit @CHANGED@ ;; esac
case $found in pending:*|error:*) leave ;; esac
exit 1
"""


def join_swarm(body: Secret, *, seen: str) -> Command:
    """The command that joins a machine, given the body of the request, which holds a token.

    `seen` is "<LocalNodeState>:<NodeID>" as the machine told it: it goes on only where that is
    still so. What it was in then, it leaves. Prints the new node's id.
    """
    script = _JOIN.replace("@SEEN@", shlex.quote(seen)).replace("@CHANGED@", str(CHANGED))
    return Command(PATH + script.replace("@POST@", post_join()), stdin=body.reveal().encode())
