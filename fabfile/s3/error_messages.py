"""What a bucket's refusals and failures mean, in words. Pure: codes in, errors out.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and the names of
botocore's exceptions. A HEAD has no body: there the HTTP status stands in for the code.
"""

from __future__ import annotations

from fabfile.base.errors import ConfigError, SwarmkeepError, UnreachableError

_SESSION = "renew your session (aws sso login, or whatever gives you your keys), then run again"
_KEYS = (
    "check the keys this command uses: AWS_PROFILE, AWS_ACCESS_KEY_ID, backup.profile in "
    "hosts.yaml, ~/.aws/credentials"
)
_REGION = "set aws_region in hosts.yaml to the bucket's region"
_NAME = "check s3_bucket_name and backup.endpoint_url in hosts.yaml"
_RIGHTS = (
    "inv bucket.policies --party operator prints the rights that are needed, above all "
    "s3:ListBucket on the bucket and s3:GetObject on what is in it"
)
_RIGHT = "the key of this command needs the right {} on it (inv bucket.policies prints policies)"
_OTHER_STORE = "it may be that this store does not offer it: see its documentation"
_LATER = "the fault is on the other side: try again in a while"
_NETWORK = (
    "check backup.endpoint_url in hosts.yaml, this machine's network and its proxy "
    "(HTTPS_PROXY, NO_PROXY)"
)

DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled")
"""What a bucket answers where a right is missing."""
UNSUPPORTED = ("NotImplemented", "MethodNotAllowed", "405", "501", "XNotImplemented")
"""What stores answer to a call that they do not know."""

# Several codes, what to say, what to do next.
_REFUSALS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("InvalidAccessKeyId",), "does not know the access key", _KEYS),
    (
        ("SignatureDoesNotMatch",),
        "refuses the signature: the secret key does not belong to the access key",
        _KEYS,
    ),
    (
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
        "says that the session has expired",
        _SESSION,
    ),
    (("InvalidToken", "InvalidClientTokenId"), "does not accept the session token", _SESSION),
    (DENIED, "denies access", _RIGHTS),
    (("NoSuchBucket",), "does not exist", _NAME),
    (
        ("NoSuchKey", "404", "NotFound"),
        "no longer has the object: it was deleted while this ran",
        "run again",
    ),
    (
        ("PreconditionFailed", "412"),
        "has another object under the same key: it was replaced while this ran",
        "run again",
    ),
    (
        ("RequestTimeTooSkewed", "RequestInTheFuture"),
        "says that this machine's clock is wrong",
        "compare 'date -u' with another machine and set this machine's clock",
    ),
    (
        (
            "PermanentRedirect",
            "TemporaryRedirect",
            "301",
            "307",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ),
        "is in another region",
        _REGION,
    ),
    (
        ("InvalidObjectState",),
        "has the object in an archive storage class: it cannot be read at once",
        "restore it first (aws s3api restore-object), and keep newer backups out of the archive",
    ),
    (("SlowDown", "ServiceUnavailable", "InternalError", "500", "503"), "is failing", _LATER),
)

_NO_KEYS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "NoAuthTokenError",
    "ProfileNotFound",
    "ConfigParseError",
    "ConfigNotFound",
)
_NO_SESSION = (
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "LoginRefreshRequired",
    "LoginTokenLoadError",
    "RefreshWithMFAUnsupportedError",
)
_NO_ANSWER = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "ProxyConnectionError",
    "HTTPClientError",
    "ResponseStreamingError",
    "IncompleteReadError",
    "OSError",
)


def refusal(
    where: str, action: str, code: str, *, message: str = "", region: str = "", right: str = ""
) -> SwarmkeepError:
    """Given the code of a bucket's answer, return the error to raise.

    `where` names bucket and endpoint, `action` what was tried ("listing postgres/x/"),
    `region` is where the bucket says that it is, `right` what the action needs
    ("s3:DeleteObject").
    """
    if right and code in DENIED:
        said = f"{where} denies {right} ({code}, {action})"
        return UnreachableError(said, hint=_RIGHT.format(right))
    for codes, meaning, hint in _REFUSALS:
        if code in codes:
            moved = f"set aws_region: {region} in hosts.yaml" if region and hint == _REGION else ""
            return UnreachableError(f"{where} {meaning} ({code}, {action})", hint=moved or hint)
    said = f": {message}" if message not in ("", "None") else ""
    hint = _OTHER_STORE if right else _RIGHTS
    return UnreachableError(f"{where} answered {code}{said} ({action})", hint=hint)


def failure(where: str, action: str, kind: str, message: str) -> SwarmkeepError:
    """Given the name of a client-side exception and its text, return the error to raise."""
    if kind in _NO_KEYS:
        return ConfigError(f"{where}: no usable AWS credentials: {message}", hint=_KEYS)
    if kind in _NO_SESSION:
        return UnreachableError(f"{where}: the session is not valid: {message}", hint=_SESSION)
    if kind == "SSLError":
        hint = "for a store with its own certificate authority set AWS_CA_BUNDLE to its bundle"
        return UnreachableError(f"{where}: its certificate is not trusted: {message}", hint=hint)
    if kind in _NO_ANSWER:
        return UnreachableError(f"{where} cannot be reached ({action}): {message}", hint=_NETWORK)
    return ConfigError(f"{where}: {action} is not possible: {message}", hint=_NAME)
