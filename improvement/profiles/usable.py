"""Whether a profile may be used, and if not, why."""

from improvement.profiles.profile import Profile


def unusable(profile: Profile | None, space: str, min_interactions: int) -> str | None:
    """Return why a profile cannot be used in this embedding space, for a person to read; None if it can.

    A profile that can be used has an embedding, unless all that is known are dislikes.

    >>> unusable(Profile("ann", "docs", "words-v1", positives=2), "words-v1", min_interactions=3)
    '2 of 3 interactions'
    """
    if profile is None:
        return "no interactions yet"
    if profile.interactions < min_interactions:
        return f"{profile.interactions} of {min_interactions} interactions"
    if profile.model_version != space:
        return (
            f"made in another embedding space, {profile.model_version!r}; "
            f"it is rebuilt in {space!r} by the next batch"
        )
    return None
