"""Dates as text inside a graph: ISO 8601 <-> seconds, by arithmetic on days alone."""

import tensorflow as tf

DAY = 86_400
# Groups: 1-3 date, 4-6 time, 7 fraction, 8 offset from UTC.
_ISO = (
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(Z|z|[+-]\d{2}(?::?\d{2})?)?)?"
)
_FRACTION = {1: 0, 10**3: 3, 10**6: 6, 10**9: 9}  # ticks a second -> digits


def parse(text: tf.Tensor, with_offset: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads 2024-12-31, 2024-12-31T23:59, 2024-12-31 23:59:59.999999+01:00 and the like.

    Args:
      text: string [...].
      with_offset: True where every text must end in Z or an offset such as +01:00; False
        where none may.

    Returns:
      Seconds since 1970-01-01 (UTC where there is an offset), float64 [...]; 0 where invalid.
      Whether the text is such a date, and one that exists: bool [...].
    """
    valid = tf.strings.regex_full_match(text, _ISO)
    safe = tf.where(valid, text, "1970-01-01T00:00:00Z" if with_offset else "1970-01-01")

    def group(i):
        return tf.strings.regex_replace(safe, f"^{_ISO}$", rf"\{i}", replace_global=False)

    def number(digits):
        padded = tf.strings.join(["0", digits])  # An absent group is an empty text.
        return tf.strings.to_number(padded, tf.int64)

    year, month, day, hour, minute, second = (number(group(i)) for i in range(1, 7))
    fraction = tf.strings.substr(tf.strings.join([group(7), "0" * 9]), 0, 9)
    nanoseconds = tf.strings.to_number(fraction, tf.int64)
    offset = group(8)
    has_offset = tf.strings.length(offset) > 0
    offset_hour = number(tf.strings.regex_replace(offset, r"^[+-](\d{2}).*$|^[Zz]?$", r"\1"))
    offset_minute = number(
        tf.strings.regex_replace(offset, r"^[+-]\d{2}:?(\d{2})$|^.*$", r"\1")
    )
    sign = tf.where(tf.strings.regex_full_match(offset, "-.*"), -1, 1)
    days = days_from_civil(year, month, day)
    for part, again in zip((year, month, day), civil_from_days(days), strict=True):
        valid &= part == again  # 30 February comes back as 1 or 2 March.
    valid &= (year >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    valid &= (offset_hour < 24) & (offset_minute < 60) & (has_offset == with_offset)
    offset_seconds = tf.cast(sign, tf.int64) * (offset_hour * 3600 + offset_minute * 60)
    whole = days * DAY + hour * 3600 + minute * 60 + second - offset_seconds
    # Whole microseconds divided once: the nearest float64, as pandas gives it.
    microseconds = tf.cast(whole * 10**6 + nanoseconds // 1000, tf.float64)
    seconds = microseconds / 1e6 + tf.cast(nanoseconds % 1000, tf.float64) / 1e9
    return tf.where(valid, seconds, 0.0), valid


def render(ticks: tf.Tensor, per_second: int, suffix: str = "", date_only: bool = False):
    """Ticks since 1970-01-01 as text, years 0001 to 9999.

    Args:
      ticks: int64 [...].
      per_second: 1, 10**3, 10**6 or 10**9: how many ticks a second has, and with it how many
        digits the fraction has.
      suffix: put at the end: "Z" for a time in UTC.
      date_only: True leaves the time of the day out.
    """

    def digits(value, width):
        return tf.strings.as_string(value, width=width, fill="0")

    whole, rest = ticks // per_second, ticks % per_second
    days, seconds = whole // DAY, whole % DAY
    year, month, day = civil_from_days(days)
    parts = [digits(year, 4), "-", digits(month, 2), "-", digits(day, 2)]
    if not date_only:
        parts += ["T", digits(seconds // 3600, 2), ":", digits(seconds // 60 % 60, 2)]
        parts += [":", digits(seconds % 60, 2)]
        if per_second > 1:
            parts += [".", digits(rest, _FRACTION[per_second])]
        parts.append(suffix)
    shape = tf.shape(ticks)
    return tf.strings.join(
        [tf.broadcast_to(p, shape) if isinstance(p, str) else p for p in parts]
    )


def days_from_civil(year, month, day) -> tf.Tensor:
    """Days since 1970-01-01 of a date of the Gregorian calendar; all int64."""
    # Years begin in March here, so that the day a leap year adds is the last of the year.
    year = tf.where(month <= 2, year - 1, year)
    since_march = (month + 9) % 12
    day_of_year = (153 * since_march + 2) // 5 + day - 1
    leap_days = year // 4 - year // 100 + year // 400
    return 365 * year + leap_days + day_of_year - 719_468


def civil_from_days(days) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(year, month, day) of a number of days since 1970-01-01; all int64."""
    days = days + 719_468
    cycle, day = days // 146_097, days % 146_097  # of 400 years
    # Leap days that are over, out of the way: what remains are years of 365 days.
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day_of_year = day - (365 * year + year // 4 - year // 100)
    since_march = (5 * day_of_year + 2) // 153
    month = tf.where(since_march < 10, since_march + 3, since_march - 9)
    year = year + 400 * cycle + tf.cast(month <= 2, tf.int64)
    return year, month, day_of_year - (153 * since_march + 2) // 5 + 1
