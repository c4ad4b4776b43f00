"""What columns of common exports are called. Files of others say so in `[profiles.NAME]`, or with --map."""

from __future__ import annotations

from typing import Final

from flashcast.zombie.reports.config import Profile

FIELDS: Final = ("id", "time", "feature", "text", "platform", "version", "locale", "user", "rating")

PROFILES: Final[dict[str, Profile]] = {
    # Our own names.
    "plain": Profile(columns={name: name for name in FIELDS}),
    # The monthly reviews_*.csv that Play Console offers and puts into its bucket, UTF-16.
    "google-play": Profile(
        columns={
            "id": "Review Link",
            "time": "Review Submit Millis Since Epoch",
            "text": ("Review Title", "Review Text"),
            "version": "App Version Name",
            "locale": "Reviewer Language",
            "rating": "Star Rating",
        },
        time_unit="ms",
        rating_max=3,
        platform="android",
    ),
    # Objects of App Store Connect's API, customerReviews, one a line.
    "app-store": Profile(
        columns={
            "id": "id",
            "time": "attributes.createdDate",
            "text": ("attributes.title", "attributes.body"),
            "locale": "attributes.territory",
            "rating": "attributes.rating",
        },
        rating_max=3,
        platform="ios",
    ),
    # Tickets of Zendesk's API and JSON export, one a line.
    "zendesk": Profile(
        columns={"id": "id", "time": "created_at", "text": ("subject", "description"), "user": "requester_id"}
    ),
}


def with_map(profile: Profile, given: dict[str, str]) -> Profile:
    """``profile`` with single columns named otherwise."""
    return profile.model_copy(update={"columns": {**profile.columns, **given}})
