package rest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// described is the document, for tests: plain values as YAML has them.
type described map[string]any

// at follows a reference such as #/components/schemas/List.
func (d described) at(ref string) any {
	var v any = map[string]any(d)
	for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		m, ok := v.(map[string]any)
		if !ok || m[step] == nil {
			panic(ref + " leads nowhere in the document")
		}
		v = m[step]
	}
	return v
}

// resolve returns a part of the document behind its references.
func (d described) resolve(v any) map[string]any {
	m, _ := v.(map[string]any)
	for m["$ref"] != nil {
		m, _ = d.at(m["$ref"].(string)).(map[string]any)
	}
	return m
}

// schemaWords are the words of JSON Schema that the document uses; holds knows what each means, or that it is for people.
var schemaWords = []string{"$ref", "type", "properties", "required", "additionalProperties", "items", "enum", "const", "pattern", "minimum",
	"oneOf", "format", "description", "examples", "contentEncoding"}

// holds returns what of a value is not as a schema says, empty if nothing.
func (d described) holds(schema any, value any, path string) string {
	s := d.resolve(schema)
	for word := range s {
		if !slices.Contains(schemaWords, word) {
			return fmt.Sprintf("%s: the schema has %q, which this test does not know", path, word)
		}
	}
	if s["type"] != nil && !isType(s["type"].(string), value) {
		return fmt.Sprintf("%s is %T, want %s", path, value, s["type"])
	}
	if c, ok := s["const"]; ok && c != value {
		return fmt.Sprintf("%s is %v, want %v", path, value, c)
	}
	if allowed, ok := s["enum"].([]any); ok && !slices.Contains(allowed, value) {
		return fmt.Sprintf("%s is %v, which is not listed", path, value)
	}
	if least, ok := s["minimum"].(int); ok && value.(float64) < float64(least) {
		return fmt.Sprintf("%s is %v, want at least %d", path, value, least)
	}
	if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(value.(string)) {
		return fmt.Sprintf("%s is %q, want %s", path, value, p)
	}
	if s["format"] == "date-time" {
		if _, err := time.Parse(time.RFC3339, value.(string)); err != nil {
			return fmt.Sprintf("%s: %v", path, err)
		}
	}
	if choices, ok := s["oneOf"].([]any); ok {
		return d.oneHolds(choices, value, path)
	}
	switch value := value.(type) {
	case map[string]any:
		return d.membersHold(s, value, path)
	case []any:
		for i, item := range value {
			if fault := d.holds(s["items"], item, fmt.Sprintf("%s[%d]", path, i)); fault != "" {
				return fault
			}
		}
	}
	return ""
}

func (d described) oneHolds(choices []any, value any, path string) string {
	var faults []string
	for _, c := range choices {
		if fault := d.holds(c, value, path); fault != "" {
			faults = append(faults, fault)
		}
	}
	if len(faults) == len(choices)-1 {
		return ""
	}
	return fmt.Sprintf("%s is as %d of %d schemas say, want 1: %s", path, len(choices)-len(faults), len(choices), strings.Join(faults, "; "))
}

func (d described) membersHold(s, value map[string]any, path string) string {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, there := value[name.(string)]; !there {
			return fmt.Sprintf("%s has no %s", path, name)
		}
	}
	known, _ := s["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(value)) {
		if known[name] == nil {
			if s["additionalProperties"] == false {
				return fmt.Sprintf("%s has %s, which is not described", path, name)
			}
			continue
		}
		if fault := d.holds(known[name], value[name], path+"."+name); fault != "" {
			return fault
		}
	}
	return ""
}

func isType(want string, value any) bool {
	switch v := value.(type) {
	case string:
		return want == "string"
	case bool:
		return want == "boolean"
	case float64:
		return want == "number" || want == "integer" && v == math.Trunc(v)
	case map[string]any:
		return want == "object"
	case []any:
		return want == "array"
	}
	return false
}

// A check that cannot fail proves nothing.
func TestTheSchemaCheckRefuses(t *testing.T) {
	d := described{"components": map[string]any{"n": map[string]any{"type": "integer", "minimum": 1}}}
	object := map[string]any{"type": "object", "required": []any{"a"}, "additionalProperties": false,
		"properties": map[string]any{"a": map[string]any{"$ref": "#/components/n"}, "b": map[string]any{"type": "array", "items": map[string]any{"const": "x"}}}}
	for value, want := range map[string]bool{
		`{"a":1}`: true, `{"a":2,"b":["x"]}`: true, `{"a":2,"b":[]}`: true,
		`{}`: false, `{"a":0}`: false, `{"a":1.5}`: false, `{"a":"1"}`: false, `{"a":1,"c":1}`: false, `{"a":1,"b":["y"]}`: false, `[]`: false, `null`: false,
	} {
		var v any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			t.Fatal(err)
		}
		if fault := d.holds(object, v, "body"); (fault == "") != want {
			t.Errorf("%s: %q", value, fault)
		}
	}
	one := map[string]any{"oneOf": []any{map[string]any{"type": "string"}, map[string]any{"enum": []any{"a"}}, map[string]any{"pattern": "^b$", "type": "string"}}}
	for value, want := range map[string]bool{"a": false, "b": false, "c": true} { // two of the three, two, one
		if fault := d.holds(one, value, "body"); (fault == "") != want {
			t.Errorf("%s: %q", value, fault)
		}
	}
	if d.holds(map[string]any{"maxLength": 3}, "a", "body") == "" {
		t.Error("an unknown word was passed over")
	}
}
