package config

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
	"go.yaml.in/yaml/v3"
)

// places is where the keys of a file stand, and what is wrong with how they stand there.
type places struct {
	lines    map[string]int // line of each key, from 1
	problems []struct{ key, text string }
}

func (p *places) problem(key, text string) {
	p.problems = append(p.problems, struct{ key, text string }{key, text})
}

// linesOf finds the keys of a file that its decoder could read. It is for messages: where it finds nothing, they do
// without. JSON is read as the YAML that it nearly always is, which also finds what its decoder keeps quiet about: keys
// that stand there twice.
func linesOf(content []byte, format string) *places {
	p := &places{lines: map[string]int{}}
	if format == "toml" {
		p.tomlLines(content)
		return p
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); err != nil || len(doc.Content) == 0 {
		return p
	}
	p.yamlLines("", doc.Content[0], 0)
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		p.problem("", "the file has more than one document: only one is read")
	}
	return p
}

// depthMax is deeper than any setting lies.
const depthMax = 8

func (p *places) yamlLines(section string, node *yaml.Node, depth int) {
	if node.Kind != yaml.MappingNode || depth > depthMax {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := section + node.Content[i].Value
		if _, twice := p.lines[key]; twice {
			p.problem(key, "is set twice in this file")
		}
		p.lines[key] = node.Content[i].Line
		p.yamlLines(key+".", node.Content[i+1], depth+1)
	}
}

func (p *places) tomlLines(content []byte) {
	parser, section := unstable.Parser{}, ""
	line, counted := 1, 0 // keys come in order: count each byte once
	parser.Reset(content)
	for parser.NextExpression() {
		node := parser.Expression()
		key, offset := tomlKey(node)
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			section = key + "."
		case unstable.KeyValue:
			key = section + key
		default:
			continue
		}
		if offset > counted {
			line, counted = line+bytes.Count(content[counted:offset], []byte("\n")), offset
		}
		p.lines[key] = line
	}
}

func tomlKey(node *unstable.Node) (key string, offset int) {
	var parts []string
	for it := node.Key(); it.Next() && len(parts) <= depthMax; {
		if len(parts) == 0 {
			offset = int(it.Node().Raw.Offset)
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), offset
}

// lineAt is the number of the line that holds the byte at offset, from 1.
func lineAt(content []byte, offset int) int {
	return 1 + bytes.Count(content[:min(max(offset, 0), len(content))], []byte("\n"))
}
