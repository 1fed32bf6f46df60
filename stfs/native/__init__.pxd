# The declarations of the C++ headers beside them, one file each, for every compiled module that includes them.
