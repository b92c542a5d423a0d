package config

import "reflect"

// Change is a setting that differs between two Configs.
type Change struct {
	Key        string
	Old, New   string // as a person would write them; a secret is not shown
	Reloadable bool   // a HUP is enough; else the change waits for a restart
}

// Compare returns what changed from old to new, in the order of the reference page.
func Compare(old, new Config) []Change {
	var changes []Change
	for _, f := range settings() {
		a, b := f.of(&old), f.of(&new)
		if reflect.DeepEqual(a.Interface(), b.Interface()) || f.list() && a.Len() == 0 && b.Len() == 0 {
			continue
		}
		changes = append(changes, Change{Key: f.key, Old: f.text(a), New: f.text(b), Reloadable: f.reload})
	}
	return changes
}
