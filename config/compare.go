package config

import "reflect"

// Change is a setting that differs between two Configs.
type Change struct {
	Key        string
	Old, New   string // as a person would write them; a secret is not shown
	Reloadable bool   // a HUP is enough; else the change waits for a restart
}

// Compare returns what changed from one Config to another, in the order of the reference page.
func Compare(from, to Config) []Change {
	var changes []Change
	for _, f := range settings() {
		a, b := f.of(&from), f.of(&to)
		if reflect.DeepEqual(a.Interface(), b.Interface()) || f.list() && a.Len() == 0 && b.Len() == 0 {
			continue
		}
		changes = append(changes, Change{Key: f.key, Old: f.text(a), New: f.text(b), Reloadable: f.reload})
	}
	return changes
}
