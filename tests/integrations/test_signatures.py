"""Who really sent this? Cross-checked with the vendors' own signers, and with whatever a stranger may send."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import stripe as stripe_sdk
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from integrations import BadSignature
from integrations._integration import Headers
from integrations._signatures import Signed, standard_webhooks, standard_webhooks_key, stripe

NOW = 1_795_400_000
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = b'{"type":"product.updated","data":{"name":"Caf\xc3\xa9"}}'

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


def _stripe(body: bytes = BODY, secret: str = NEW, timestamp: int = NOW) -> Pairs:
    digest = hmac.new(secret.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()
    return [("Stripe-Signature", f"t={timestamp},v1={digest}")]


def _check_standard(headers: Headers, body: bytes = BODY, *secrets: str, now: float = NOW) -> Signed:
    return standard_webhooks(headers, body, [SecretStr(s) for s in secrets or (NEW,)], now, upstream="warehouse")


def _check_stripe(headers: Headers, body: bytes = BODY, *secrets: str, now: float = NOW) -> Signed:
    return stripe(headers, body, [SecretStr(s) for s in secrets or (NEW,)], now)


SCHEMES = pytest.mark.parametrize(
    ("sign", "check"), [(_standard, _check_standard), (_stripe, _check_stripe)], ids=["standard", "stripe"]
)
Sign = Callable[..., Pairs]
Check = Callable[..., Signed]


def _refusal(check: Check, *args: object, **kwargs: object) -> str:
    with pytest.raises(BadSignature) as caught:
        check(*args, **kwargs)
    return caught.value.reason


@SCHEMES
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


@SCHEMES
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


@SCHEMES
def test_without_a_secret_nothing_is_believed(sign: Sign, check: Check) -> None:
    scheme = standard_webhooks if check is _check_standard else stripe
    with pytest.raises(BadSignature, match=r"set WAREHOUSE_WEBHOOK_SECRETS") as caught:
        scheme(sign(), BODY, [], NOW, upstream="warehouse")
    assert caught.value.reason == "unconfigured"


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
    assert check({name.upper(): value for name, value in sign()}).timestamp == NOW
    assert check((name.title(), value) for name, value in sign()).timestamp == NOW


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
_lines = st.lists(
    st.tuples(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "Stripe-Signature"]) | _words, _words
    ),
    max_size=6,
)


@given(_lines, st.binary(max_size=200), st.floats(0, 1e12))
def test_whatever_a_stranger_sends_nothing_but_bad_signature_comes_out(
    lines: list[tuple[str, str]], body: bytes, now: float
) -> None:
    for check in (_check_standard, _check_stripe):
        assert _refusal(check, lines, body, now=now)


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
