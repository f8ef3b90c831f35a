"""Who really sent this? Cross-checked with the vendors' own signers, and with whatever a stranger may send."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import stripe as stripe_sdk
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from integrations import (
    GITHUB,
    SHOPIFY,
    STANDARD,
    STRIPE,
    SVIX,
    BadSignature,
    Headers,
    Hmac,
    Signed,
    Verifier,
    WebhookSecret,
)
from integrations._schemes import standard_webhooks_key
from integrations._secrets import read_secret
from integrations._signatures import Scheme

NOW = 1_795_400_000
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = b'{"type":"product.updated","data":{"name":"Caf\xc3\xa9"}}'
#: The key pair of RFC 8032, section 7.1, test 1.
PRIVATE = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
PUBLIC = (
    "whpk_"
    + base64.b64encode(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")).decode()
)

Pairs = list[tuple[str, str]]


def _standard(body: bytes = BODY, secret: str = NEW, timestamp: int = NOW, external_id: str = "msg_1") -> Pairs:
    digest = hmac.new(
        standard_webhooks_key(SecretStr(secret)), f"{external_id}.{timestamp}.".encode() + body, hashlib.sha256
    ).digest()
    return [
        ("webhook-id", external_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", f"v1,{base64.b64encode(digest).decode()}"),
    ]


def _asymmetric(body: bytes = BODY, timestamp: int = NOW) -> Pairs:
    made = PRIVATE.sign(f"msg_1.{timestamp}.".encode() + body)
    return [*_standard(body, timestamp=timestamp)[:2], ("webhook-signature", f"v1a,{base64.b64encode(made).decode()}")]


def _stripe(body: bytes = BODY, secret: str = NEW, timestamp: int = NOW) -> Pairs:
    digest = hmac.new(secret.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()
    return [("Stripe-Signature", f"t={timestamp},v1={digest}")]


def _github(body: bytes = BODY, secret: str = NEW, timestamp: int = NOW) -> Pairs:
    del timestamp
    return [("X-Hub-Signature-256", "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())]


def _shopify(body: bytes = BODY, secret: str = NEW, timestamp: int = NOW) -> Pairs:
    del timestamp
    made = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return [("X-Shopify-Hmac-Sha256", base64.b64encode(made).decode())]


def _verify(scheme: Scheme, headers: Headers, body: bytes, *secrets: str, now: float = NOW) -> Signed:
    given_ = [read_secret(secret) for secret in secrets]
    return Verifier("warehouse", scheme, given_).verify(headers, body, now)


def _check_standard(headers: Headers, body: bytes = BODY, *secrets: str, now: float = NOW) -> Signed:
    return _verify(STANDARD, headers, body, *(secrets or (NEW,)), now=now)


def _check_stripe(headers: Headers, body: bytes = BODY, *secrets: str, now: float = NOW) -> Signed:
    return _verify(STRIPE, headers, body, *(secrets or (NEW,)), now=now)


def _check_github(headers: Headers, body: bytes = BODY, *secrets: str, now: float = NOW) -> Signed:
    return _verify(GITHUB, headers, body, *(secrets or (NEW,)), now=now)


def _check_shopify(headers: Headers, body: bytes = BODY, *secrets: str, now: float = NOW) -> Signed:
    return _verify(SHOPIFY, headers, body, *(secrets or (NEW,)), now=now)


TIMED = [(_standard, _check_standard), (_stripe, _check_stripe)]
TIMED_SCHEMES = pytest.mark.parametrize(("sign", "check"), TIMED, ids=["standard", "stripe"])
SCHEMES = pytest.mark.parametrize(
    ("sign", "check"),
    [*TIMED, (_github, _check_github), (_shopify, _check_shopify)],
    ids=["standard", "stripe", "github", "shopify"],
)
Sign = Callable[..., Pairs]
Check = Callable[..., Signed]


def _refusal(check: Check, *args: object, **kwargs: object) -> str:
    with pytest.raises(BadSignature) as caught:
        check(*args, **kwargs)
    return caught.value.reason


@TIMED_SCHEMES
def test_a_genuine_delivery_is_accepted_and_says_when_it_was_signed(sign: Sign, check: Check) -> None:
    assert check(sign()).timestamp == NOW


def test_the_external_id_is_the_signed_one() -> None:
    assert _check_standard(_standard(external_id="msg_42")).external_id == "msg_42"


@SCHEMES
def test_a_body_that_is_not_text_is_verified_like_any_other(sign: Sign, check: Check) -> None:
    assert check(sign(b"\xff\x00\xfe"), b"\xff\x00\xfe").secret_index == 0


@SCHEMES
def test_one_changed_byte_is_a_mismatch(sign: Sign, check: Check) -> None:
    assert _refusal(check, sign(), BODY + b" ") == "mismatch"


@TIMED_SCHEMES
def test_a_stale_signature_is_refused_and_so_is_one_from_the_future(sign: Sign, check: Check) -> None:
    assert check(sign(), now=NOW + 300).timestamp == NOW
    assert check(sign(), now=NOW - 300).timestamp == NOW
    assert _refusal(check, sign(), now=NOW + 301) == "stale"
    assert _refusal(check, sign(), now=NOW - 301) == "early"
    assert _refusal(check, sign(timestamp=0), now=NOW) == "stale"


@SCHEMES
def test_while_a_secret_is_rolled_both_are_accepted_and_told_apart(sign: Sign, check: Check) -> None:
    assert check(sign(secret=NEW), BODY, NEW, OLD).secret_index == 0
    assert check(sign(secret=OLD), BODY, NEW, OLD).secret_index == 1
    assert _refusal(check, sign(secret=OLD), BODY, NEW) == "mismatch"


@pytest.mark.parametrize("scheme", [STANDARD, SVIX, STRIPE, GITHUB, SHOPIFY], ids=repr)
def test_without_a_secret_nothing_is_believed(scheme: Scheme) -> None:
    with pytest.raises(BadSignature, match=r"set WAREHOUSE_WEBHOOK_SECRETS") as caught:
        _verify(scheme, _standard(), BODY)
    assert caught.value.reason == "unconfigured"


@SCHEMES
def test_a_secret_is_believed_until_its_end_and_not_from_then_on(sign: Sign, check: Check) -> None:
    end = datetime.fromtimestamp(NOW, UTC).isoformat()
    assert check(sign(secret=OLD), BODY, NEW, f"{OLD}@{end}", now=NOW - 1).secret_index == 1
    assert _refusal(check, sign(secret=OLD), BODY, NEW, f"{OLD}@{end}", now=NOW) == "ended"
    assert check(sign(secret=NEW), BODY, f"{NEW}@{end}", NEW, now=NOW).secret_index == 1


@SCHEMES
def test_each_signature_header_is_needed_exactly_once(sign: Sign, check: Check) -> None:
    pairs = sign()
    for index, pair in enumerate(pairs):
        assert _refusal(check, pairs[:index] + pairs[index + 1 :]) == "missing"
        assert _refusal(check, [*pairs, pair]) == "duplicated"
        assert _refusal(check, [*pairs, (pair[0].upper(), "other")]) == "duplicated"
        assert _refusal(check, [*pairs[:index], (pair[0], ""), *pairs[index + 1 :]]) == "missing"


@SCHEMES
def test_header_names_are_read_in_any_case_from_a_mapping_or_pairs(sign: Sign, check: Check) -> None:
    assert check({name.upper(): value for name, value in sign()}).secret_index == 0
    assert check((name.title(), value) for name, value in sign()).secret_index == 0


def test_malformed_tokens_beside_a_good_signature_are_skipped() -> None:
    good = dict(_standard())["webhook-signature"]
    for junk in ["junk", "v1", "v1,", "v1,%%%", "v1,AAA", "v1a,AAAA", "v2,AAAA", ",", "", "v1,A\u007f"]:
        headers = {**dict(_standard()), "webhook-signature": f"{junk} {good} {junk}"}
        if junk.isprintable():
            assert _check_standard(headers).secret_index == 0
        else:
            assert _refusal(_check_standard, headers) == "malformed"
    value = dict(_stripe())["Stripe-Signature"]
    for junk in ["v1=", "v1=zz", "v1=abc", "v0=00", "junk", "", "=", "v1"]:
        assert _check_stripe({"Stripe-Signature": f"{junk},{value},{junk}"}).secret_index == 0


def test_stripes_other_schemes_never_count() -> None:
    assert _refusal(_check_stripe, {"Stripe-Signature": _stripe()[0][1].replace("v1=", "v0=")}) == "mismatch"


@pytest.mark.parametrize(
    "timestamp", ["", "x", "-1", "1795400000.0", " 1795400000", "1" * 13, "1" * 9999, "1_795_400_000"]
)
def test_a_timestamp_is_a_whole_number_of_seconds(timestamp: str) -> None:
    headers = {**dict(_standard()), "webhook-timestamp": timestamp}
    assert _refusal(_check_standard, headers) in {"malformed", "missing"}
    assert _refusal(_check_stripe, {"Stripe-Signature": f"t={timestamp},v1=00"}) == "malformed"


def test_a_stripe_header_with_two_times_is_refused() -> None:
    value = dict(_stripe())["Stripe-Signature"]
    assert _refusal(_check_stripe, {"Stripe-Signature": f"t=1,{value}"}) == "malformed"


@pytest.mark.parametrize("value", ["v1,é", "v1,²", "t=1795400000,v1=é", "\x00", "a\nb"])
def test_text_that_is_not_plain_is_refused_not_raised(value: str) -> None:
    assert _refusal(_check_standard, {**dict(_standard()), "webhook-signature": value}) == "malformed"
    assert _refusal(_check_stripe, {"Stripe-Signature": value}) == "malformed"


def test_only_the_first_sixteen_signatures_are_looked_at() -> None:
    good = dict(_standard())["webhook-signature"]
    for others, reason in ((15, None), (16, "mismatch")):
        headers = {**dict(_standard()), "webhook-signature": " ".join(["v1,AAAA"] * others + [good])}
        if reason is None:
            assert _check_standard(headers).secret_index == 0
        else:
            assert _refusal(_check_standard, headers) == reason


def test_no_refusal_repeats_a_secret_a_signature_or_the_body() -> None:
    with pytest.raises(BadSignature) as caught:
        _check_standard(_standard(secret=OLD), BODY, NEW)
    shown = f"{caught.value} {caught.value!r}"
    assert NEW not in shown
    assert dict(_standard(secret=OLD))["webhook-signature"] not in shown
    assert "Caf" not in shown


_words = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(
    [str(NOW), "v1,", "v1,AAAA", f"t={NOW},v1=00", f"t={NOW},v1=é", " ", "=", ","]
)
LINES = [name for sign in (_standard, _stripe, _github, _shopify) for name, _ in sign()]
_lines = st.lists(
    st.tuples(st.sampled_from(LINES) | _words, _words),
    max_size=6,
)


@given(_lines, st.binary(max_size=200), st.floats(0, 1e12))
def test_whatever_a_stranger_sends_nothing_but_bad_signature_comes_out(
    lines: list[tuple[str, str]], body: bytes, now: float
) -> None:
    for check in (_check_standard, _check_stripe, _check_github, _check_shopify):
        assert _refusal(check, lines, body, now=now)
    assert _refusal(_check_standard, lines, body, PUBLIC, now=now)


@given(st.binary(max_size=200), _words)
def test_with_a_right_id_and_time_a_made_up_signature_is_still_refused(body: bytes, signature: str) -> None:
    assert _refusal(_check_standard, {**dict(_standard(body)), "webhook-signature": signature}, body)
    assert _refusal(_check_stripe, {"Stripe-Signature": f"t={NOW},v1={signature}"}, body)


@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_what_the_standard_library_signs_we_accept_and_the_reverse(text: str) -> None:
    now = int(time.time())
    theirs = Webhook(NEW)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": theirs.sign("msg_1", datetime.fromtimestamp(now, UTC), text),
    }
    assert _check_standard(headers, text.encode(), now=now).external_id == "msg_1"
    theirs.verify(text, dict(_standard(text.encode(), timestamp=now)), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        theirs.verify(text + ".", dict(_standard(text.encode(), timestamp=now)), json_parse=False)


@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_what_stripes_library_signs_we_accept_and_the_reverse(text: str) -> None:
    now = int(time.time())
    header = stripe_sdk.WebhookSignature.generate_signature_header(text, NEW, now)
    assert _check_stripe({"Stripe-Signature": header}, text.encode(), now=now).timestamp == now
    ours = _stripe(text.encode(), timestamp=now)[0][1]
    assert stripe_sdk.WebhookSignature.verify_header(text, ours, NEW, tolerance=300)


@pytest.mark.parametrize("secret", ["whsec_", "", "whsec_AAAA!!!!", "whsec_not base64", "whsec_é", "whsec_A"])
def test_a_secret_that_is_not_base64_is_a_configuration_error(secret: str) -> None:
    with pytest.raises(ValueError, match="copy it again"):
        standard_webhooks_key(SecretStr(secret))


def test_an_unpadded_secret_is_the_same_key() -> None:
    assert standard_webhooks_key(SecretStr(NEW.rstrip("="))) == b"n" * 32


def test_published_deliveries_are_believed() -> None:
    standard = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ]
    body, secret = b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert _verify(STANDARD, standard, body, secret, now=1_614_265_330).external_id == standard[0][1]
    svix = [(name.replace("webhook-", "svix-"), value) for name, value in standard]
    assert _verify(SVIX, svix, body, secret, now=1_614_265_330).external_id == standard[0][1]
    # From GitHub's page about validating deliveries.
    github = [("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")]
    shared = WebhookSecret(SecretStr("It's a Secret to Everybody"))
    assert Verifier("github", GITHUB, [shared]).verify(github, b"Hello, World!", NOW).secret_index == 0
    # RFC 4231, test case 2.
    made = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    written = {"hex": made, "base64": base64.b64encode(bytes.fromhex(made)).decode()}
    for scheme in (Hmac("X-Sign", "v0="), Hmac("x-sign", "v0=", "base64"), Hmac("X-Sign", prefix="")):
        headers = [("X-SIGN", scheme.prefix + written[scheme.encoding])]
        assert _verify(scheme, headers, b"what do ya want for nothing?", "Jefe").timestamp is None


def test_a_public_key_believes_what_its_owner_signed_and_nothing_else() -> None:
    assert PRIVATE.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")  # as in RFC 8032
    assert _check_standard(_asymmetric(), BODY, PUBLIC) == Signed("msg_1", NOW, 0)
    assert _refusal(_check_standard, _asymmetric(), BODY + b" ", PUBLIC) == "mismatch"
    assert _refusal(_check_standard, _asymmetric(), BODY, PUBLIC, now=NOW + 301) == "stale"
    assert _refusal(_check_standard, _asymmetric(), BODY, NEW) == "mismatch"
    assert _refusal(_check_standard, _standard(), BODY, PUBLIC) == "mismatch"
    for junk in ("v1a,", "v1a,AAAA", "v1a", "v1," + _asymmetric()[2][1].removeprefix("v1a,")):
        headers = {**dict(_asymmetric()), "webhook-signature": junk}
        assert _refusal(_check_standard, headers, BODY, PUBLIC) == "mismatch"


def test_a_sender_may_go_over_from_a_shared_secret_to_its_own_key() -> None:
    both = {**dict(_standard()), "webhook-signature": f"{_standard()[2][1]} {_asymmetric()[2][1]}"}
    assert _check_standard(both, BODY, PUBLIC, NEW).secret_index == 0
    assert _check_standard(both, BODY, OLD, PUBLIC).secret_index == 1
    assert _check_standard(_standard(), BODY, PUBLIC, NEW).secret_index == 1


@pytest.mark.parametrize("key", ["whpk_", "whpk_AAAA", "whpk_%%%", NEW.replace("whsec_", "whpk_") + "AAAA"])
def test_a_public_key_of_another_size_is_a_configuration_error(key: str) -> None:
    with pytest.raises(ValueError, match="copy it again"):
        Verifier("warehouse", STANDARD, [read_secret(key)])


def test_a_delivery_without_a_signature_costs_the_same_digest_as_one_with_a_wrong_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digested: list[int] = []
    plain = hmac.digest

    def counting(key: bytes, message: bytes, algorithm: object) -> bytes:
        digested.append(len(message))
        return plain(key, message, algorithm)  # type: ignore[arg-type]

    monkeypatch.setattr(hmac, "digest", counting)
    for headers, secrets in (([], (NEW,)), (_github(b"other"), (NEW,)), (_github(), ())):
        with pytest.raises(BadSignature):
            _verify(GITHUB, headers, BODY, *secrets)
    assert digested == [len(BODY)] * 3
