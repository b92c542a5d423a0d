package config

// Setting is one effective value, for `config show`.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin Origin `json:"from"`
}

// Settings lists the effective values, in the order of the reference page. Secrets are not shown.
func Settings(c Config, from Provenance) []Setting {
	var list []Setting
	for _, f := range settings() {
		list = append(list, Setting{Key: f.key, Value: f.text(f.of(&c)), Origin: from[f.key]})
	}
	return list
}
