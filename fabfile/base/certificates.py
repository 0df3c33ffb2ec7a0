"""X.509 certificates: whom they are for and who made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


def names(certificate: Certificate) -> set[str]:
    """The domain names that a certificate is for, in lower case."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {name.lower() for name in found.value.get_values_for_type(x509.DNSName)}


def is_for(certificate: Certificate, domain: str) -> bool:
    """Whether a certificate is for a domain, by its name or by a wildcard one level above it.

    RFC 6125, 6.4.3.
    """
    above = f"*.{domain.partition('.')[2]}"
    return not names(certificate).isdisjoint({domain, above})


def issuer(certificate: Certificate) -> str:
    """Who made a certificate, by common name or organization; "?" if it does not say."""
    from cryptography.x509 import NameOID

    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in certificate.issuer.get_attributes_for_oid(kind):
            return str(attribute.value)
    return "?"
