"""AppsFlyer: installs and in-app events of the Push API.

https://support.appsflyer.com/hc/en-us/articles/207034356 and
https://dev.appsflyer.com/hc/reference/push-api-configuration

Nothing is signed: a token that the app's owner sets is sent in a header. Fields are those that were chosen, and
empty ones are left out. Times without a zone are UTC; the same times in the app's own zone stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.errors import ConfigInvalid, MalformedPayload
from relay.records import Event, Record, Request, decode_json, encode_json, instant_of_ns
from relay.signatures import Token, Verifier
from relay.source import Sample, Setting, Vendor, field, table

_KEY: Final = ("appsflyer_id", "event_name", "event_time")
_CONTRIBUTORS: Final = ("1", "2", "3")


def _of_contributors(*names: str) -> str:
    return " ".join(f"contributor_{number}_{name}" for number in _CONTRIBUTORS for name in names)


# fmt: off
EVENTS = table(
    "events", " ".join(_KEY), "event_time (milliseconds), then the order of arrival",
    # Of the key, so as it is written: `event_time_utc` is the moment.
    text="appsflyer_id event_name event_time ad_unit advertising_id af_ad af_ad_id af_ad_type af_adset "
    "af_adset_id af_attribution_lookback af_c_id af_channel af_cost_currency af_cost_model af_keywords af_prt "
    "af_siteid af_sub1 af_reengagement_window af_sub2 af_sub3 af_sub4 af_sub5 af_sub_siteid amazon_aid "
    "android_id api_version app_id app_name app_version attributed_touch_type blocked_reason bundle_id "
    "campaign campaign_type carrier city conversion_type country_code customer_user_id deeplink_url "
    "device_category device_model device_type dma event_revenue_currency event_source event_type gp_referrer "
    "http_referrer idfa idfv imei install_app_store ip keyword_id keyword_match_type language match_type "
    "media_source mediation_network network_account_id oaid operator original_url os_version platform "
    "postal_code region retargeting_conversion_type sdk_version selected_currency selected_timezone state "
    "user_agent "
    # The app's own zone stands in these, which a moment would lose.
    "attributed_touch_time_selected_timezone device_download_time_selected_timezone "
    "event_time_selected_timezone install_time_selected_timezone "
    + _of_contributors("af_prt", "campaign", "match_type", "media_source", "touch_type"),
    instant="event_time_utc attributed_touch_time device_download_time gp_click_time gp_install_begin "
    "install_time "
    + _of_contributors("touch_time"),
    money="af_cost_value cost_in_selected_currency event_revenue event_revenue_usd revenue_in_selected_currency",
    bool="is_lat is_primary_attribution is_receipt_validated is_retargeting store_reinstall wifi",
    json="custom_data custom_dimension event_value",
)
# fmt: on


def verifier(settings: Mapping[str, Any]) -> Verifier:
    """The token, in the header that was chosen with it."""
    name = settings["token_name"]
    if not isinstance(name, str) or not name:
        raise ConfigInvalid(f"token_name is the name of a header, not {name!r}")
    return Token(header=name)


def _kind(_request: Request, data: Any) -> str:
    """SKAdNetwork's postbacks, which come here too if they are chosen, know no device and are no such event."""
    if not isinstance(data, dict):
        return ""
    return "skadnetwork" if "skad_transaction_id" in data and "appsflyer_id" not in data else "event"


vendor = Vendor(
    title="AppsFlyer",
    family="ads",
    docs="https://support.appsflyer.com/hc/en-us/articles/207034356",
    verify=verifier,
    type=_kind,
    # No delivery has an id, and what would identify the event may be shared by two: content tells them apart.
    at=field("event_time"),
    tables=(EVENTS,),
    settings={
        "token_name": Setting(
            help="The header in which AppsFlyer sends the token: Authorization, or one that begins with X-.",
            default="Authorization",
        )
    },
    setup=(
        f"Push API settings of the app: this URL, method POST, all fields, or at least {', '.join(_KEY)}.",
        "PUT /api/pushapi/v1.0/tokens/app/{app_id}: a token of your own, of letters, digits, `-`, `_` and `.`.",
        "The secret: that token.",
    ),
    deletes="There are none.",
    limits=(
        "nothing is signed: whoever has the token can send an event",
        "two events of one name, device and millisecond are one row, and the later one stays",
        "messages by GET are not taken; postbacks of SKAdNetwork are not mapped",
    ),
    proof="documented: a token in a header, by AppsFlyer's Push API configuration (`token`, `token_name`)",
    # No second attempt is promised: the page in `docs`.
    fragile=True,
)


def _json_or_text(value: Any) -> Any:
    """An object or list that stands in a text, decoded; what is none stays the text that it is."""
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        return decode_json(value.encode())
    except (MalformedPayload, UnicodeEncodeError):
        return value


@vendor.maps("event")
def event(event: Event) -> Iterator[Record]:
    """An install, a re-engagement or an in-app event.

    Raises:
        KeyError: a part of its identity is missing.
    """
    for name in _KEY:
        if not event.data[name]:
            raise KeyError(name)
    decoded = {
        name: _json_or_text(event.data[name]) for name in ("custom_data", "event_value") if name in event.data
    }
    yield EVENTS.row({**event.data, **decoded, "event_time_utc": event.data["event_time"]}, at=event.at)


@vendor.sample("event")
def event_sample(n: int, now: int) -> Sample:
    """A purchase in an app."""
    at = f"{instant_of_ns(now):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    bought = {
        "af_content_id": f"SKU-{n % 30}",
        "af_price": "19.90",
        "af_currency": "EUR",
        "af_quantity": 1 + n % 3,
    }
    body = {
        "appsflyer_id": f"{1_547_985_076_649 + n}-{5_309_999 + n}",
        "app_id": "id1200000000",
        "app_name": "Nordlicht",
        "platform": "ios",
        "event_name": "af_purchase",
        "event_type": "install-in-app-event",
        "event_source": "SDK",
        "event_time": at,
        "event_time_selected_timezone": f"{at}+0000",
        "install_time": "2026-02-20 04:51:16.000",
        "event_value": encode_json(bought).decode(),
        "event_revenue": "19.90",
        "event_revenue_currency": "EUR",
        "media_source": ("organic", "googleadwords_int")[n % 2],
        "conversion_type": "install",
        "campaign_type": ("organic", "ua")[n % 2],
        "customer_user_id": f"kunde-{n}",
        "country_code": "DE",
        "wifi": n % 2 == 0,
        "is_retargeting": False,
        "selected_timezone": "UTC",
    }
    return Sample(body)
