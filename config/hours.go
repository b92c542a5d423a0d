package config

import (
	"errors"
	"regexp"
	"time"
)

// Hours is a part of each day, by the clock on the wall: from one minute up to another, over midnight if that is earlier.
type Hours struct{ from, to int }

var errHours = errors.New(`must be two times of the day, as "22:00-06:00", that are not the same`)

var hoursForm = regexp.MustCompile(`^([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})$`)

// ParseHours reads the form 22:00-06:00. 24:00 is the end of a day.
func ParseHours(text string) (h Hours, err error) {
	parts := hoursForm.FindStringSubmatch(text)
	if parts == nil {
		return h, errHours
	}
	for i, to := range []*int{&h.from, &h.to} {
		if *to, err = minuteOf(parts[i+1]); err != nil {
			return h, err
		}
	}
	if h.from%dayMinutes == h.to%dayMinutes && (h.from != 0 || h.to != dayMinutes) {
		return h, errHours
	}
	return h, nil
}

const dayMinutes = 24 * 60

func minuteOf(text string) (int, error) {
	if text == "24:00" {
		return dayMinutes, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, errHours
	}
	return t.Hour()*60 + t.Minute(), nil
}

// Has reports whether t, in the time zone that it has, is in the hours.
func (h Hours) Has(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	if h.from < h.to {
		return h.from <= m && m < h.to
	}
	return m >= h.from || m < h.to
}

// BulkFree reports whether BulkRate does not hold at t.
func (l Link) BulkFree(t time.Time) bool {
	for _, text := range l.BulkHours {
		if h, err := ParseHours(text); err == nil && h.Has(t) {
			return true
		}
	}
	return false
}
