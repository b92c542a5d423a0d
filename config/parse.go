package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parse turns what a decoder made of a file, or text, into a value of the field's type. Its errors say what would be
// right, to stand behind the value in a message.
func (f *field) parse(raw any) (reflect.Value, error) {
	switch v := raw.(type) {
	case string:
		return f.parseText(v)
	case []any:
		return f.parseList(v)
	}
	if f.list() {
		return f.parseList([]any{raw})
	}
	if v, ok := number(raw); ok {
		return f.parseNumber(v)
	}
	if v, ok := raw.(bool); ok && f.typ.Kind() == reflect.Bool {
		return reflect.ValueOf(v).Convert(f.typ), nil
	}
	return reflect.Value{}, f.wrongType()
}

func (f *field) wrongType() error {
	switch f.kind() {
	case "text":
		return errors.New("must be text: put it in quotes")
	case "number":
		return errors.New("must be a whole number")
	case "bool":
		return errors.New("must be true or false")
	case "duration":
		_, err := parseDuration("")
		return err
	default:
		return errSize
	}
}

// parseText reads the form used in variables and flags: parts of a list are separated by commas.
func (f *field) parseText(text string) (reflect.Value, error) {
	var v any
	var err error
	switch {
	case f.list():
		return f.parseList(splitList(text))
	case text == "none" && f.def == "none":
		return reflect.Zero(f.typ), nil
	case f.typ == reflect.TypeFor[time.Duration]():
		v, err = parseDuration(text)
	case f.typ == reflect.TypeFor[Size]():
		v, err = ParseSize(text)
	case f.typ == reflect.TypeFor[Reserve]():
		v, err = ParseReserve(text)
	case f.typ.Kind() == reflect.Bool:
		if v, err = strconv.ParseBool(text); err != nil {
			err = f.wrongType()
		}
	case f.typ.Kind() == reflect.Int:
		if v, err = strconv.Atoi(text); err != nil {
			err = f.wrongType()
		}
	default:
		v = text
	}
	if err != nil {
		return reflect.Value{}, err
	}
	return reflect.ValueOf(v).Convert(f.typ), nil
}

func splitList(text string) []any {
	var parts []any
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// number returns raw as a whole number. JSON knows only floats, TOML and YAML give integers.
func number(raw any) (int64, bool) {
	switch v := reflect.ValueOf(raw); {
	case v.CanInt():
		return v.Int(), true
	case v.CanUint():
		return int64(min(v.Uint(), math.MaxInt64)), true
	case v.CanFloat():
		n := v.Float()
		return int64(n), n == math.Trunc(n) && math.Abs(n) < 1<<53
	}
	return 0, false
}

func (f *field) parseNumber(n int64) (reflect.Value, error) {
	switch {
	case f.typ == reflect.TypeFor[time.Duration]() && n != 0, f.typ == reflect.TypeFor[Reserve](), f.kind() == "text":
		return reflect.Value{}, f.wrongType()
	case n < 0 && f.typ == reflect.TypeFor[Size]():
		return reflect.Value{}, errors.New("must not be negative")
	case f.typ.Kind() == reflect.Bool:
		return reflect.Value{}, f.wrongType()
	case f.typ.Kind() == reflect.Int && int64(int(n)) != n:
		return reflect.Value{}, errors.New("is too large")
	}
	return reflect.ValueOf(n).Convert(f.typ), nil
}

// listMax bounds the entries of a list.
const listMax = 1024

func (f *field) parseList(raw []any) (reflect.Value, error) {
	if !f.list() {
		return reflect.Value{}, errors.New("must be a single value, not a list")
	}
	if len(raw) > listMax {
		return reflect.Value{}, fmt.Errorf("has %d entries, at most %d are allowed", len(raw), listMax)
	}
	list := reflect.MakeSlice(f.typ, 0, len(raw))
	for i, entry := range raw {
		v, err := parseEntry(f.typ.Elem(), entry)
		if err != nil {
			return reflect.Value{}, fmt.Errorf("entry %d %w", i+1, err)
		}
		list = reflect.Append(list, v)
	}
	return list, nil
}

// parseEntry reads an entry of a list: text, or for a list of structs a map whose keys are the struct's fields. Text for
// a struct is its first field.
func parseEntry(t reflect.Type, raw any) (reflect.Value, error) {
	text, isText := raw.(string)
	if t.Kind() == reflect.String {
		if !isText {
			return reflect.Value{}, errors.New("must be text: put it in quotes")
		}
		return reflect.ValueOf(text).Convert(t), nil
	}
	fields, v := schemaOf(t), reflect.New(t).Elem()
	if isText {
		v.Field(0).SetString(text)
		return v, nil
	}
	entries, ok := raw.(map[string]any)
	if !ok {
		return reflect.Value{}, fmt.Errorf("must be text or a map with the keys %s", strings.Join(fields.names((*field).name), ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		f, ok := fields.find(key)
		if !ok {
			return reflect.Value{}, fmt.Errorf("has the key %s, which does not exist%s", quote(key), didYouMean(key, fields.names((*field).name)))
		}
		part, err := f.parse(entries[key])
		if err == nil {
			err = f.verify(part)
		}
		if err != nil {
			return reflect.Value{}, fmt.Errorf("has %s: %s, which %w", key, quote(fmt.Sprint(entries[key])), err)
		}
		v.FieldByIndex(f.index).Set(part)
	}
	for _, f := range fields {
		if _, there := entries[f.key]; f.needed && !there {
			return reflect.Value{}, fmt.Errorf("has no %s", f.key)
		}
	}
	return v, nil
}

func (f *field) name() string { return f.key }

// text is the value as a person would write it. A secret is not shown.
func (f *field) text(v reflect.Value) string {
	if v.IsZero() && f.def == "none" {
		return "none"
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case []string:
		return strings.Join(x, ",")
	case []QueuePrefix:
		entries := make([]string, len(x))
		for i, p := range x {
			entries[i] = p.String()
		}
		return strings.Join(entries, ",")
	default:
		return fmt.Sprint(x)
	}
}
