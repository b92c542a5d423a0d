package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// output is the form that a command prints in; a flag value.
type output string

const (
	outputTable output = "table"
	outputJSON  output = "json"
	outputYAML  output = "yaml"
)

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "form" }

func (o *output) Set(text string) error {
	switch output(text) {
	case outputTable, outputJSON, outputYAML:
		*o = output(text)
		return nil
	}
	return errors.New("must be table, json or yaml")
}

// printJSON prints a document that is JSON already: as it is, as YAML, or as a table of its leaves.
func (o output) printJSON(w io.Writer, doc []byte) error {
	if o == outputJSON {
		_, err := w.Write(append(bytes.TrimRight(doc, "\n"), '\n'))
		return err
	}
	tree, err := parseTree(doc)
	if err != nil {
		return exitf(exitRefused, "the answer is no JSON: %w", err)
	}
	if o == outputYAML {
		return tree.writeYAML(w, "")
	}
	return printTable(w, nil, tree.leaves("", nil))
}

// print prints any value as JSON or YAML.
func (o output) print(w io.Writer, v any) error {
	doc, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return o.printJSON(w, doc)
}

// printTable prints rows in columns, with a head unless it is nil.
func printTable(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if head != nil {
		fmt.Fprintln(tw, strings.Join(head, "\t"))
	}
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// keyText is a key on a line: as it is where that can be read without doubt, else quoted as in Go.
func keyText(key []byte) string {
	if len(key) > 0 && key[0] != '"' && isPlain(key) {
		return string(key)
	}
	return strconv.Quote(string(key))
}

// valueMax is how much of a value a table shows.
const valueMax = 80

// valueText is a value in a table: enough of it to know it by.
func valueText(value []byte) string {
	text, more := value, ""
	if len(text) > valueMax {
		text, more = bytes.ToValidUTF8(text[:valueMax], nil), fmt.Sprintf("... (%d bytes)", len(value))
	}
	if len(text) > 0 && text[0] != '"' && isPlain(text) {
		return string(text) + more
	}
	return strconv.Quote(string(text)) + more
}

func isPlain(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
