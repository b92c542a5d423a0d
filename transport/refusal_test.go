package transport

import (
	"strings"
	"testing"
)

// TestRefusalNumbersAreFixed: they cross the link between versions.
func TestRefusalNumbersAreFixed(t *testing.T) {
	want := []Refusal{NoCertificate, UnknownCA, OtherCluster, Expired, NotYetValid, Malformed, WrongRole, WrongNode, Self, NotAllowed, Removed, Revoked, Starting}
	seen := make(map[string]Refusal)
	for i, r := range want {
		if int(r) != i+1 {
			t.Errorf("%s is %d, want %d", r.label(), r, i+1)
		}
		for _, text := range []string{r.Error(), r.label()} {
			if other, ok := seen[text]; ok || strings.Contains(text, "unknown to this version") || text == "unknown" {
				t.Errorf("%d says %q, as %d does", r, text, other)
			}
			seen[text] = r
		}
	}
	if int(refusalEnd) != len(want)+1 || refusalBase+int(refusalEnd) > 256 {
		t.Errorf("%d reasons, %d tested", refusalEnd-1, len(want))
	}
	if later := Refusal(31); !strings.Contains(later.Error(), "unknown to this version (31)") || later.label() != "unknown" {
		t.Errorf("a later version's reason reads %q", later.Error())
	}
}
