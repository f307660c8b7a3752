// Looks a function up in a library that is loaded already (later.h).
#include "op/later.h"

#include <dlfcn.h>

namespace longstride::op {

void* loaded_function(const char* library, const char* name) {
  void* const handle = dlopen(library, RTLD_NOLOAD | RTLD_LAZY);
  if (!handle) return nullptr;
  void* const function = dlsym(handle, name);
  dlclose(handle);  // whoever loaded it keeps it
  return function;
}

}  // namespace longstride::op
