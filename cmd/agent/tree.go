package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// tree is a JSON document whose objects keep their order. Numbers keep their digits.
type tree struct {
	members []member // of an object
	items   []*tree  // of an array
	isArray bool
	isMap   bool
	scalar  any // string, json.Number, bool or nil
}

type member struct {
	name  string
	value *tree
}

func parseTree(doc []byte) (*tree, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	return readTree(d)
}

// readTree recurses as deep as the decoder does, which refuses more than 10,000 levels.
func readTree(d *json.Decoder) (*tree, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return &tree{scalar: token}, nil
	}
	t := &tree{isArray: delim == '[', isMap: delim == '{'}
	for d.More() {
		var name string
		if t.isMap {
			if token, err = d.Token(); err != nil {
				return nil, err
			}
			name = fmt.Sprint(token)
		}
		value, err := readTree(d)
		if err != nil {
			return nil, err
		}
		if t.isMap {
			t.members = append(t.members, member{name, value})
		} else {
			t.items = append(t.items, value)
		}
	}
	_, err = d.Token() // the closing bracket
	return t, err
}

// writeYAML writes block style. Scalars are written as JSON, which YAML reads as the same.
func (t *tree) writeYAML(w io.Writer, indent string) error {
	var b strings.Builder
	t.yaml(&b, indent)
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *tree) yaml(b *strings.Builder, indent string) {
	switch {
	case len(t.members) > 0:
		for _, m := range t.members {
			fmt.Fprintf(b, "%s%s:", indent, yamlName(m.name))
			m.value.yamlBelow(b, indent+"  ")
		}
	case len(t.items) > 0:
		for _, item := range t.items {
			var below strings.Builder
			item.yaml(&below, indent+"  ")
			b.WriteString(indent + "- " + strings.TrimPrefix(below.String(), indent+"  "))
		}
	default:
		b.WriteString(indent + t.inline() + "\n")
	}
}

// yamlBelow writes the value of a name that was just written.
func (t *tree) yamlBelow(b *strings.Builder, indent string) {
	if len(t.members) == 0 && len(t.items) == 0 {
		b.WriteString(" " + t.inline() + "\n")
		return
	}
	b.WriteString("\n")
	t.yaml(b, indent)
}

func (t *tree) inline() string {
	switch {
	case t.isMap:
		return "{}"
	case t.isArray:
		return "[]"
	}
	text, err := json.Marshal(t.scalar)
	if err != nil {
		return `""` // a scalar out of a JSON decoder always goes back
	}
	return string(text)
}

// yamlName leaves a name bare if no reader can take it for anything else.
func yamlName(name string) string {
	const letters, digits = "abcdefghijklmnopqrstuvwxyz_", "0123456789"
	if strings.TrimLeft(name, letters) != name && strings.Trim(name, letters+digits) == "" && name != "null" && name != "true" && name != "false" {
		return name
	}
	return fmt.Sprintf("%q", name)
}

// leaves lists what is not nested, with the path to it: rows for a table.
func (t *tree) leaves(path string, rows [][]string) [][]string {
	switch {
	case len(t.members) > 0:
		for _, m := range t.members {
			rows = m.value.leaves(strings.TrimPrefix(path+"."+m.name, "."), rows)
		}
	case len(t.items) > 0:
		texts := make([]string, len(t.items))
		for i, item := range t.items {
			texts[i] = item.plain()
		}
		rows = append(rows, []string{path, strings.Join(texts, ", ")})
	default:
		rows = append(rows, []string{path, t.plain()})
	}
	return rows
}

func (t *tree) plain() string {
	if text, ok := t.scalar.(string); ok {
		return text
	}
	return t.inline()
}

// named is a list of objects, taken out of a document.
type named struct {
	name string
	list *tree
}

// detach takes the lists of objects out of t, with the path to each: one line could not show them.
func (t *tree) detach(path string, lists []named) []named {
	var rest []member
	for _, m := range t.members {
		at := strings.TrimPrefix(path+"."+m.name, ".")
		if len(m.value.items) > 0 && m.value.items[0].isMap {
			lists = append(lists, named{at, m.value})
			continue
		}
		lists = m.value.detach(at, lists)
		rest = append(rest, m)
	}
	t.members = rest
	return lists
}

// columns is a list of objects as a table: a column for each name that any of them has.
func (t *tree) columns() (head []string, rows [][]string) {
	for _, item := range t.items {
		for _, m := range item.members {
			if !slices.Contains(head, m.name) {
				head = append(head, m.name)
			}
		}
	}
	for _, item := range t.items {
		row := make([]string, len(head))
		for i, name := range head {
			row[i] = "-"
			if at := slices.IndexFunc(item.members, func(m member) bool { return m.name == name }); at >= 0 {
				row[i] = item.members[at].value.cell()
			}
		}
		rows = append(rows, row)
	}
	return head, rows
}

// cell is plain text, with something to see where there is none.
func (t *tree) cell() string {
	if text := t.plain(); text != "" {
		return text
	}
	return `""`
}
